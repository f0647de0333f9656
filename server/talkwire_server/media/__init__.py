"""Images, sounds and films of requests. Knows no engine and no vLLM.

store.py      has every medium of a request as bytes, or names those that cannot be had
web.py        fetches from the hosts that the operator listed; addresses.py checks where they are
folder.py     reads below the operator's folder
data_uri.py   decodes `data:` URIs
formats.py    tells what the bytes are
cache.py      keeps bytes under the caller's key
"""

from talkwire_server.media.store import MediaStore, media_in

__all__ = ["MediaStore", "media_in"]
