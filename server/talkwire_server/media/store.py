"""Has every medium of a request as bytes, checked. Knows not which media the model takes."""

import asyncio
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import aiohttp
from aiohttp.abc import AbstractResolver

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.errors import (
    InvalidRequest,
    MediaNotFound,
    MediaUnreadable,
    UnsupportedFeature,
    Violation,
    short,
)
from talkwire_server.media import data_uri
from talkwire_server.media.cache import MediaCache
from talkwire_server.media.folder import Folder
from talkwire_server.media.formats import contradicts, identify, is_broken
from talkwire_server.media.limits import Limit
from talkwire_server.media.unreadable import NotKept, Unreadable
from talkwire_server.media.web import Web
from talkwire_server.settings import Settings


class Medium(NamedTuple):
    """A medium where it stands: `messages[2].parts[0].image`, "image" and what is there."""

    path: str
    kind: str
    media: pb.Media


class MediaStore:
    """Reads, fetches, checks and keeps media.

    Args:
        settings: What the operator allows.
        resolver: Who turns the names of hosts into addresses; None for the system.

    """

    def __init__(self, settings: Settings, resolver: AbstractResolver | None = None) -> None:
        most = settings.max_media_bytes
        path = settings.allowed_local_media_path
        self._most = settings.max_media
        self._most_bytes = most
        self._most_pixels = settings.max_image_pixels
        self._total = settings.media_total
        self._keeps = settings.media_cache_bytes > 0
        self._cache = MediaCache(settings.media_cache_bytes)
        self._folder = Folder(path, most) if path else None
        self._web = Web(settings.allowed_media_domains, settings.media_timeout, most, resolver)

    def unsupported(self, request: pb.ChatRequest) -> list[str]:
        """Name the URIs that the operator does not allow, and keys where nothing is kept."""
        names = []
        for path, _, media in islice(media_in(request), self._most):  # `resolve` refuses more
            if media.HasField("uri") and not self._allows(media.uri):
                names.append(f"{path}.uri")
            if media.HasField("cache_id") and not self._keeps:
                names.append(f"{path}.cache_id")
            if media.cache_key and not self._keeps:
                names.append(f"{path}.cache_key")
        return names

    async def resolve(self, request: pb.ChatRequest) -> pb.ChatRequest:
        """Return the request with `data` and the true `mime_type`, and no more, in each medium.

        A request without media is returned as it is, any other is copied. A `cache_id` names what
        earlier requests had kept.

        Raises:
            CallError: Of the media, with every bad one by name.

        """
        if not any(media_in(request)):
            return request
        for path, _, _ in islice(media_in(request), self._most, None):
            text = f"more than {self._most} media in a request"
            raise InvalidRequest([Violation(path, text, "OUT_OF_RANGE")])
        if features := self.unsupported(request):
            raise UnsupportedFeature(features)
        resolved = pb.ChatRequest()
        resolved.CopyFrom(request)
        limits = (
            Limit(self._most_bytes, self._total * self._most_bytes, "bytes"),
            Limit(self._most_pixels, self._total * self._most_pixels, "pixels"),
        )
        async with self._web.session() as session, asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._load(medium, request.cache_salt, *limits, session))
                for medium in media_in(resolved)
            ]
        faults = [fault for task in tasks if (fault := task.result())]
        if faults:
            gone = all(fault.reason == "NOT_FOUND" for fault in faults)
            raise (MediaNotFound if gone else MediaUnreadable)(faults)
        return resolved

    async def explain(self, resolved: pb.ChatRequest) -> list[Violation]:
        """Decode the images of a request that the engine could not load; name the broken ones."""
        return [
            Violation(path, "is truncated or broken", "UNREADABLE")
            for path, kind, media in media_in(resolved)
            if kind == "image" and await asyncio.to_thread(is_broken, media.data)
        ]

    def _allows(self, uri: str) -> bool:
        match _scheme(uri):
            case "data":
                return True
            case "file":
                return self._folder is not None
            case "https" | "http":
                return self._web.allows(uri)
        return False

    async def _load(
        self, medium: Medium, salt: str, size: Limit, pixels: Limit, session: aiohttp.ClientSession
    ) -> Violation | None:
        """Fill one medium in, or tell what is wrong with it."""
        path, kind, media = medium
        source = media.WhichOneof("source")
        field = f"{path}.{source}" if source else path
        try:
            claim, data = await self._bytes(media, salt, session)
            size.take(len(data))
            mime_type, count = await asyncio.to_thread(identify, kind, data)
            pixels.take(count)
        except Unreadable as fault:
            missing = isinstance(fault, NotKept)
            return Violation(field, str(fault), "NOT_FOUND" if missing else "UNREADABLE")
        for name, label in ((f"{path}.mime_type", media.mime_type), (field, claim)):
            if contradicts(label, mime_type):
                return Violation(name, f"says {short(label, 32)}, but is {mime_type}", "UNREADABLE")
        if media.cache_key:
            self._cache.keep(salt, media.cache_key, data)
            media.ClearField("cache_key")
        if source != "data":
            media.data = data
        media.mime_type = mime_type
        return None

    async def _bytes(
        self, media: pb.Media, salt: str, session: aiohttp.ClientSession
    ) -> tuple[str, bytes]:
        """Return what a medium's URI says it is, if it does, and its bytes."""
        uri = media.uri
        match media.WhichOneof("source"), _scheme(uri):
            case "data", _:
                return "", media.data
            case "cache_id", _:
                kept = self._cache.find(salt, media.cache_id)
                if kept is None:
                    raise NotKept
                return "", kept
            case "uri", "data":
                return await asyncio.to_thread(data_uri.decode, uri, self._most_bytes)
            case "uri", "file" if self._folder:
                return "", await asyncio.to_thread(self._folder.read, uri)
            case "uri", _:
                return "", await self._web.fetch(session, uri)
        raise Unreadable("needs data, a uri or a cache_id")


def media_in(request: pb.ChatRequest) -> Iterator[Medium]:
    """Find the images, sounds and films of a request."""
    for i, message in enumerate(request.messages):
        for j, part in enumerate(message.parts):
            match part.WhichOneof("part"):
                case "image" | "audio" | "video" as kind:
                    path = f"messages[{i}].parts[{j}].{kind}"
                    yield Medium(path, kind, getattr(part, kind))


def _scheme(uri: str) -> str:
    return uri[:6].partition(":")[0].lower()
