"""Takes longer to import than a worker of the tests lets an idle horse live that should leave."""

import time

time.sleep(4)  # what is tested: the length of an import
