"""Gateways to be measured, cortex among them: how each is started before one mock neuron.

    python -m tests.bench.rivals install FOLDER [NAME ...]

puts them below a folder (`recipes`); what is not there is told, never left out in silence. One process
each unless the name says more. All listen on loopback, log nothing that they can be told not to log, tell
nobody of themselves, and have keys that open nothing.
"""

import argparse
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import cortex
from tests.bench import ours, recipes
from tests.bench.ours import HAS_WORKERS, KEY, MODELS, write_gateway

# cortex with two workers, and what the routers and the proxies beside it are called.
OURS, TWO = "cortex", "cortex, 2 workers"
NAMES: Final = ("nginx", OURS, TWO, "haproxy", "litellm", "portkey", "sglang-router", "vllm-router")
# The answers of Messages, told in chat.
SPEAK_MESSAGES: Final = (OURS, TWO, "litellm")
_ALONE: Final = {"NO_PROXY": "*"}
_NGINX_FOLDERS: Final = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
_VERSION: Final = re.compile(r"\d+(?:\.\d+)+[\w.+-]*")
# It listens everywhere, and has no word for where.
_LOOPBACK: Final = """
const net = require("net");
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (port, host, ...rest) {
  return listen.call(this, port, host === undefined ? "127.0.0.1" : host, ...rest);
};
"""


@dataclass(frozen=True, slots=True)
class Rival:
    """One way to start a gateway: `command` wants its port, the mock's, and a folder of its own. `version`
    is empty where it is not installed. `spread`: it has processes that want every core."""

    command: Callable[[int, int, Path], list[str]]
    version: Callable[[], str]
    environment: Mapping[str, str] = field(default_factory=dict)
    headers: tuple[str, ...] = ()
    spread: bool = False
    lacking: str = "not installed"


def rivals(root: Path) -> dict[str, Rival]:
    """Those of `NAMES`, looked for below `root` where they are not the distribution's."""
    bearer = (f"Authorization: Bearer {KEY}",)
    return {
        "nginx": Rival(_nginx, partial(_program_version, "nginx", "-v")),
        OURS: Rival(partial(_cortex, 1), lambda: cortex.__version__, headers=bearer),
        TWO: Rival(
            partial(_cortex, 2),
            lambda: cortex.__version__ if HAS_WORKERS else "",
            headers=bearer,
            spread=True,
            lacking="this cortex knows of no workers",
        ),
        "haproxy": Rival(_haproxy, partial(_program_version, "haproxy", "-v")),
        "litellm": Rival(
            partial(_litellm, root / "litellm"),
            partial(recipes.python_version, root / "litellm", "litellm"),
            {
                **_ALONE,
                "LITELLM_MASTER_KEY": KEY,
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                "LITELLM_TELEMETRY": "False",
                "LITELLM_LOG": "ERROR",
                "LITELLM_MODE": "PRODUCTION",
                "DISABLE_ADMIN_UI": "True",
            },
            bearer,
        ),
        "portkey": Rival(
            partial(_portkey, root / "portkey"),
            partial(recipes.node_version, root / "portkey", "@portkey-ai/gateway"),
            {"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"},
            ("x-portkey-provider: openai", "x-portkey-custom-host: http://127.0.0.1:{mock}/v1"),
        ),
        "sglang-router": Rival(
            partial(_router, [f"{root}/sglang-router/bin/python", "-m", "sglang_router.launch_router"]),
            partial(recipes.python_version, root / "sglang-router", "sglang-router"),
            _ALONE,
        ),
        "vllm-router": Rival(
            partial(_router, [f"{root}/vllm-router/bin/vllm-router"]),
            partial(recipes.python_version, root / "vllm-router", "vllm-router"),
            _ALONE,
        ),
    }


def _cortex(workers: int, port: int, mock: int, folder: Path) -> list[str]:
    return write_gateway(folder, port, mock, ours.ONE, workers)


def _nginx(port: int, mock: int, folder: Path) -> list[str]:
    (folder / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; worker_rlimit_nofile 20000;\n"
        f"pid {folder}/pid; error_log {folder}/err crit;\n"
        "events { worker_connections 16000; }\n"
        "http { access_log off; keepalive_requests 1000000; client_body_buffer_size 64k;\n"
        + "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in _NGINX_FOLDERS)
        + f"upstream neuron {{ server 127.0.0.1:{mock}; keepalive 4096; keepalive_requests 10000000; }}\n"
        f"server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ proxy_pass http://neuron;\n"
        'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; } } }\n'
    )
    return ["nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder)]


def _haproxy(port: int, mock: int, folder: Path) -> list[str]:
    (folder / "haproxy.cfg").write_text(
        "global\n nbthread 1\n maxconn 9000\ndefaults\n mode http\n timeout connect 5s\n"
        " timeout client 600s\n timeout server 600s\n option http-keep-alive\n option http-no-delay\n"
        f" http-reuse always\nfrontend f\n bind 127.0.0.1:{port}\n default_backend b\n"
        f"backend b\n server s 127.0.0.1:{mock} pool-max-conn -1\n"
    )
    return ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")]


def _litellm(root: Path, port: int, mock: int, folder: Path) -> list[str]:
    models = "".join(
        f"  - model_name: {model}\n    litellm_params: {{model: openai/{model}, "
        f'api_base: "http://127.0.0.1:{mock}/v1", api_key: sk-x}}\n'
        for model in MODELS
    )
    (folder / "litellm.yaml").write_text(
        # Else Messages are told in Responses.
        f"model_list:\n{models}litellm_settings: {{telemetry: false, request_timeout: 600, num_retries: 0,"
        " use_chat_completions_url_for_anthropic_messages: true}\n"
        "general_settings: {disable_spend_logs: true}\n"
    )
    own = [f"{root}/bin/litellm", "--config", str(folder / "litellm.yaml")]
    return [*own, "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]


def _router(program: Sequence[str], port: int, mock: int, folder: Path) -> list[str]:
    return [
        *program,
        *("--host", "127.0.0.1", "--port", str(port), "--worker-urls", f"http://127.0.0.1:{mock}"),
        *("--policy", "round_robin", "--log-level", "error", "--prometheus-host", "127.0.0.1"),
        *("--prometheus-port", str(port + 1), "--max-concurrent-requests", "20000"),
        *("--request-timeout-secs", "600"),
    ]


def _portkey(root: Path, port: int, mock: int, folder: Path) -> list[str]:
    (folder / "loopback.cjs").write_text(_LOOPBACK)
    server = f"{root}/node_modules/@portkey-ai/gateway/build/start-server.js"
    return ["node", "--require", str(folder / "loopback.cjs"), server, f"--port={port}", "--headless"]


def _program_version(name: str, flag: str) -> str:
    if not shutil.which(name):
        return ""
    told = subprocess.run([name, flag], check=True, capture_output=True, text=True)
    return version_in(told.stdout + told.stderr)


def version_in(text: str) -> str:
    """The first number with dots."""
    found = _VERSION.search(text)
    return found.group() if found else "unknown"


def main(words: Sequence[str] | None = None) -> None:
    """Installs."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.rivals",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("deed", choices=["install"])
    parser.add_argument("folder", type=Path, help="where each gets a folder of its own")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(recipes.NAMES)}; else all")
    options = parser.parse_args(words)
    if unknown := set(options.names) - set(recipes.NAMES):
        parser.error(f"no recipe for {', '.join(sorted(unknown))}")
    recipes.install(options.folder, options.names)


if __name__ == "__main__":
    main()
