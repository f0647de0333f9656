"""The server's settings: one frozen dataclass. Engine flags stay vLLM's own, unread."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from talkwire_server.adapters import module_faults
from talkwire_server.conversation import DEFAULT_SYSTEM

_HOST = re.compile(r"(https?://)?([\w.-]+|\[[0-9A-Fa-f:.]+\])(:\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to serve.

    Attributes:
        engine: `vllm`, or `echo` for the engine without a model.
        model: Hugging Face or ModelScope id, or a local path; None for the embedded model.
        served_model_name: The names to serve under; empty for the model's own.
        modelscope: Take ids for ModelScope's.
        lora_modules: LoRA adapters to serve, as `name=path`.
        tool_call_parser: vLLM's parser of the model's tool calls; None for none.
        tool_parser_plugin: Python file that registers a tool call parser of one's own.
        engine_options: Names that `ChatRequest.engine_options` may hold.
        allowed_media_domains: Hosts that media may be fetched from by `https:`; other ports and
            `http:` are spelled out, as `http://10.0.0.5:8080`. What is not on the public internet
            is listed by its address, beside its name if it has one, or as `localhost`.
        allowed_local_media_path: Folder that media may be read from by `file:` URI.
        media_timeout: Seconds that the fetches of a request may take.
        max_media_bytes: Largest image, sound or film taken; all of a request have four times that.
        max_image_pixels: Largest image taken, in pixels; all of a request have four times that.
        media_cache_bytes: Memory for media kept by `cache_key`; 0 keeps none.
        chat_template: Path of a Jinja template, or the template itself; None for the model's.
        default_system: System prompt of requests that bring none; empty for none.
        host: Address to listen on, or `unix:PATH`.
        port: Port to listen on; 0 for a free one.
        admin_port: Port of the AdminService on the loopback address; None for no such service.
        grace: Seconds that running calls get to finish once a stop is asked for.
        max_message_bytes: Largest request taken.
        reflection: Serve gRPC reflection.
        channelz: Serve channelz, the live statistics of channels.
        stop_on_eof: Stop, too, when standard input ends.
        echo_delay: Seconds before each word of the echo engine.
        log_level: Of our log; at debug of vLLM's, too, whose advice at the start is else left out.
        engine_args: vLLM's engine flags as they were given.

    """

    engine: Literal["vllm", "echo"] = "vllm"
    model: str | None = None
    served_model_name: tuple[str, ...] = ()
    modelscope: bool = False
    lora_modules: tuple[str, ...] = ()
    tool_call_parser: str | None = None
    tool_parser_plugin: str | None = None
    engine_options: tuple[str, ...] = ()
    allowed_media_domains: tuple[str, ...] = ()
    allowed_local_media_path: str | None = None
    media_timeout: float = 5.0
    max_media_bytes: int = 16 << 20
    max_image_pixels: int = 32_000_000
    media_cache_bytes: int = 256 << 20
    chat_template: str | None = None
    default_system: str = DEFAULT_SYSTEM
    host: str = "127.0.0.1"
    port: int = 50051
    admin_port: int | None = None
    grace: float = 30.0
    max_message_bytes: int = 16 << 20
    reflection: bool = True
    channelz: bool = False
    stop_on_eof: bool = False
    echo_delay: float = 0.0
    log_level: str = "info"
    engine_args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot work, every fault at once."""
        flags = self._vllm_flags()
        faults = [
            text
            for wrong, text in (
                (not 0 <= self.port <= 65535, f"--port must be 0 to 65535, got {self.port}"),
                (not self.grace >= 0, f"--grace must be >= 0, got {self.grace:g}"),
                (not self.echo_delay >= 0, f"--echo-delay must be >= 0, got {self.echo_delay:g}"),
                (self.max_message_bytes < 1, "--max-message-bytes must be >= 1"),
                (self.max_media_bytes < 1, "--max-media-bytes must be >= 1"),
                (self.max_image_pixels < 1, "--max-image-pixels must be >= 1"),
                (self.media_cache_bytes < 0, "--media-cache-bytes must be >= 0"),
                (
                    not all(map(_HOST.fullmatch, self.allowed_media_domains)),
                    "--allowed-media-domains takes hosts, like example.com or http://10.0.0.5:8080",
                ),
                (
                    not Path(self.allowed_local_media_path or ".").is_dir(),
                    "--allowed-local-media-path must be a folder",
                ),
                (not self.media_timeout > 0, "--media-timeout must be > 0"),
                (
                    not 0 <= (self.admin_port or 0) <= 65535,
                    f"--admin-port must be 0 to 65535, got {self.admin_port}",
                ),
                (not self.host, "--host must not be empty"),
                (
                    self.engine == "echo" and bool(flags),
                    f"the echo engine takes no {' '.join(flags)}",
                ),
            )
            if wrong
        ]
        faults += module_faults(self.lora_modules)
        if faults:
            raise ValueError("; ".join(faults))

    def _vllm_flags(self) -> list[str]:
        ours = {
            "--model": self.model,
            "--modelscope": self.modelscope,
            "--chat-template": self.chat_template,
            "--lora-modules": self.lora_modules,
            "--tool-call-parser": self.tool_call_parser,
            "--tool-parser-plugin": self.tool_parser_plugin,
            "--allow-engine-options": self.engine_options,
        }
        return [flag for flag, given in ours.items() if given] + list(self.engine_args)

    def address(self, port: int) -> str:
        """Where to listen, or at another port, as gRPC spells it."""
        if self.host.startswith("unix:"):
            return self.host
        return f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"
