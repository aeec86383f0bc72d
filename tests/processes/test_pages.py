"""x"""
from __future__ import annotations

from dashboards import HERE, Browse

import werk


def test_x(browse: Browse, redis_url):
    werk.enqueue("hello", "Ada")
    client = browse()
    for p in ("/","/failures","/failures?hours=3","/jobs","/jobs?state=failed&since=x","/jobs/groups","/jobs/count/retry?state=failed","/tasks","/0/view/queues","/0/view/workers","/nowhere"):
        r=client.get(p, base_url=HERE, headers={"Accept":"text/html"})
        print(p, r.status_code, r.content_type, len(r.text), r.text[:150].replace("\n"," ") if r.status_code>=400 else "")
    print(client.get("/nowhere", base_url=HERE).text)
