"""The tasks, which workers run. A task that needs the application pushes its context."""

from flask import current_app

from gallery.app import app


def thumbnail(picture: str, width: int = 320) -> str:
    """Return the address of a picture's thumbnail."""
    if not picture.endswith((".jpg", ".png")):
        raise ValueError(f"{picture!r} is not a picture")
    with app.app_context():
        return f"{current_app.config['THUMBNAILS']}/{width}/{picture}"
