"""Gateways to be measured, cortex among them: how each is started before one mock neuron.

Nothing is installed here. nginx and HAProxy come from the distribution; the others are looked for
where the environment says: CORTEX_BENCH_LITELLM, CORTEX_BENCH_SGLANG, CORTEX_BENCH_VLLM (virtual
environments) and CORTEX_BENCH_PORTKEY (a folder of npm's). One process each unless the name says more.
All listen on loopback, and log nothing that they can be told not to log.
"""

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from cortex.wire import neuron as wire

MODELS: Final = ("mock", "paced")
KEY: Final = "sk-cortex-bench"
GIB: Final = 2**30


@dataclass(frozen=True, slots=True)
class Rival:
    """One way to start a gateway: `command` wants its port, the mock's, and a folder of its own. `missing`
    says what is not there. `spread`: it has processes that want every core."""

    command: Callable[[int, int, Path], list[str]]
    missing: Callable[[], str]
    environment: Mapping[str, str] = field(default_factory=dict)
    headers: tuple[str, ...] = ()
    spread: bool = False


def write_neuron(folder: Path) -> None:
    """What the mock answers as a neuron that has both models, all its slots free."""
    folder.mkdir(exist_ok=True)
    boot = "bench"
    residents = [
        wire.ResidentReport(
            id=model,
            harness="llamacpp",
            devices=["cpu"],
            bytes={"cpu": GIB},
            slots=100_000,
            queue=100_000,
            age_s=1000.0,
            idle_s=1000.0,
            context_length=8192,
        )
        for model in MODELS
    ]
    answers: dict[str, msgspec.Struct] = {
        "discovery": wire.Discovery(
            name="n1",
            hostname="bench",
            devices=[wire.Device(device="cpu", name="cpu", memory_total=64 * GIB)],
            harnesses=[wire.HarnessReport(name="llamacpp", available=True)],
            dialects=["openai_chat", "openai_text"],
            boot_id=boot,
        ),
        "health": wire.Health(
            name="n1",
            boot_id=boot,
            devices=[wire.DeviceHealth(name="cpu", memory_total=64 * GIB, memory_free=62 * GIB)],
            models=[wire.ModelLoad(id=model, slots=100_000) for model in MODELS],
        ),
        "models": wire.Residents(boot_id=boot, models=residents, known=list(MODELS)),
    }
    for name, answer in answers.items():
        (folder / f"{name}.json").write_bytes(msgspec.json.encode(answer))


def _cortex(port: int, mock: int, folder: Path) -> list[str]:
    (folder / "models.toml").write_text(
        "".join(f'[[models]]\nid = "{model}"\nharness = "llamacpp"\n' for model in MODELS)
    )
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    (folder / "cortex.toml").write_text(
        f'[gateway]\nlisten = "127.0.0.1:{port}"\nmetrics_listen = "127.0.0.1:{port + 1}"\n'
        f'models_config = "models.toml"\n[limits]\nqueue = 65536\n'
        f'[[neurons]]\nname = "n1"\nendpoint = "http://127.0.0.1:{mock}"\n'
        f'[[keys]]\nname = "bench"\nsha256 = "{digest}"\nscopes = ["inference"]\n'
    )
    return [sys.executable, "-m", "cortex", "gateway", "--config", str(folder / "cortex.toml")]


def _nginx(workers: int) -> Callable[[int, int, Path], list[str]]:
    def command(port: int, mock: int, folder: Path) -> list[str]:
        (folder / "nginx.conf").write_text(
            f"daemon off; worker_processes {workers}; worker_rlimit_nofile 20000;\n"
            f"pid {folder}/pid; error_log {folder}/err crit;\n"
            "events { worker_connections 16000; }\n"
            "http { access_log off; keepalive_requests 1000000; client_body_buffer_size 64k;\n"
            + "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in _NGINX_FOLDERS)
            + f"upstream neuron {{ server 127.0.0.1:{mock}; keepalive 4096; keepalive_requests 10000000; }}\n"
            f"server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ proxy_pass http://neuron;\n"
            'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; } } }\n'
        )
        return ["nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder)]

    return command


def _haproxy(port: int, mock: int, folder: Path) -> list[str]:
    (folder / "haproxy.cfg").write_text(
        "global\n nbthread 1\n maxconn 9000\ndefaults\n mode http\n timeout connect 5s\n"
        " timeout client 600s\n timeout server 600s\n option http-keep-alive\n option http-no-delay\n"
        f" http-reuse always\nfrontend f\n bind 127.0.0.1:{port}\n default_backend b\n"
        f"backend b\n server s 127.0.0.1:{mock} pool-max-conn -1\n"
    )
    return ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")]


def _litellm(port: int, mock: int, folder: Path) -> list[str]:
    models = "".join(
        f"  - model_name: {model}\n    litellm_params: {{model: openai/{model}, "
        f'api_base: "http://127.0.0.1:{mock}/v1", api_key: sk-x}}\n'
        for model in MODELS
    )
    (folder / "litellm.yaml").write_text(
        f"model_list:\n{models}litellm_settings: {{telemetry: false, request_timeout: 600, num_retries: 0}}\n"
        "general_settings: {disable_spend_logs: true}\n"
    )
    own = [f"{os.environ['CORTEX_BENCH_LITELLM']}/bin/litellm", "--config", str(folder / "litellm.yaml")]
    return [*own, "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]


def _router(variable: str, program: list[str]) -> Callable[[int, int, Path], list[str]]:
    def command(port: int, mock: int, folder: Path) -> list[str]:
        first = [f"{os.environ[variable]}/bin/{program[0]}", *program[1:]]
        return [
            *first,
            *("--host", "127.0.0.1", "--port", str(port), "--worker-urls", f"http://127.0.0.1:{mock}"),
            *("--policy", "round_robin", "--log-level", "error", "--prometheus-host", "127.0.0.1"),
            *("--prometheus-port", str(port + 1), "--max-concurrent-requests", "20000"),
            *("--request-timeout-secs", "600"),
        ]

    return command


def _portkey(port: int, mock: int, folder: Path) -> list[str]:
    root = os.environ["CORTEX_BENCH_PORTKEY"]
    return [
        "node",
        f"{root}/node_modules/@portkey-ai/gateway/build/start-server.js",
        f"--port={port}",
        "--headless",
    ]


def _program(name: str) -> Callable[[], str]:
    return lambda: "" if shutil.which(name) else f"the program {name} is not installed"


def _variable(name: str) -> Callable[[], str]:
    return lambda: "" if os.environ.get(name) else f"{name} is not set"


_NGINX_FOLDERS: Final = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
_ALONE: Final = {"NO_PROXY": "*"}
RIVALS: Final[Mapping[str, Rival]] = {
    "nginx": Rival(_nginx(1), _program("nginx")),
    "cortex": Rival(_cortex, lambda: "", headers=(f"Authorization: Bearer {KEY}",)),
    "haproxy": Rival(_haproxy, _program("haproxy")),
    "litellm": Rival(
        _litellm,
        _variable("CORTEX_BENCH_LITELLM"),
        {
            **_ALONE,
            "LITELLM_MASTER_KEY": KEY,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_TELEMETRY": "False",
            "LITELLM_LOG": "ERROR",
            "LITELLM_MODE": "PRODUCTION",
            "DISABLE_ADMIN_UI": "True",
        },
        (f"Authorization: Bearer {KEY}",),
    ),
    "portkey": Rival(
        _portkey,
        _variable("CORTEX_BENCH_PORTKEY"),
        {"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"},
        ("x-portkey-provider: openai", "x-portkey-custom-host: http://127.0.0.1:{mock}/v1"),
    ),
    "sglang-router": Rival(
        _router("CORTEX_BENCH_SGLANG", ["python", "-m", "sglang_router.launch_router"]),
        _variable("CORTEX_BENCH_SGLANG"),
        _ALONE,
    ),
    "vllm-router": Rival(
        _router("CORTEX_BENCH_VLLM", ["vllm-router"]), _variable("CORTEX_BENCH_VLLM"), _ALONE
    ),
}
