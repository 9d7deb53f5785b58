"""Lists every key of cortex.toml, neuron.toml and models.toml, one table a section.

This is the only list: what is checked, what the environment may override, the schema for
editors and what docs/config.md must name all follow from it. Defaults are not here but in the fields
of the dataclasses that the values fill.
"""

from typing import Final

from cortex.config.division import MOST_WORKERS
from cortex.config.keys import (
    EXPIRY,
    GLOB,
    LEAST_SHARE,
    MOST_A_DAY,
    MOST_A_MINUTE,
    MOST_IN_FLIGHT,
    MOST_SHARE,
)
from cortex.config.kinds import (
    ADDRESS,
    DEVICE,
    DRAFT,
    ENDPOINT,
    FLAG,
    FOLDER,
    GROUP,
    HOST,
    HUB_URL,
    ISOLATION,
    MODEL,
    NAME,
    NAMESERVER,
    NETWORK,
    ORIGIN,
    PATH,
    REVISION,
    SERVICE,
    SHA256,
    SOURCE,
    TOKEN_ID,
    UPSTREAM_URL,
    VARIABLE,
    multiples,
    number,
    one_of,
    sizes,
    spans,
    whole,
)
from cortex.config.reading import Known, Table

UPSTREAM_KINDS: Final = ("openai", "vllm", "sglang", "llamacpp", "tabbyapi", "ollama", "cortex")
CACHE: Final = Known(one_of("fp16", "q8", "q6", "q4"))
STRATEGY: Final = Known(one_of("lru", "priority"))
DEFRAG: Final = Known(whole(0, 10**6))
LOG_FORMAT: Final = Known(one_of("text", "json"))
# A listener that polls or waits less than this spins.
LEAST_S: Final = 0.1

# models.toml

SAMPLING: Final = Table(
    {
        "temperature": Known(number(0.0, 100.0)),
        "top_p": Known(number(0.0, 1.0)),
        "top_k": Known(whole(0, 10**6)),
        "min_p": Known(number(0.0, 1.0)),
        "seed": Known(whole(-(2**63), 2**63 - 1)),
        "presence_penalty": Known(number(-2.0, 2.0)),
        "frequency_penalty": Known(number(-2.0, 2.0)),
        "repetition_penalty": Known(number(0.01, 10.0)),
        "logit_bias": Known(number(-100.0, 100.0), form="map", names=TOKEN_ID),
    }
)

USD: Final = number(0.0, 10.0**6)

COST: Final = Table(
    {
        "input": Known(USD, required=True),
        "output": Known(USD, required=True),
        "cache_read": Known(USD),
        "cache_write": Known(USD),
    }
)

# The predecessor's limits: advisory there too.
LIMIT: Final = Table({name: Known(whole(0, 2**31)) for name in ("context", "input", "output")}, idle=True)

MODEL_KEYS: Final = Table(
    {
        "id": Known(MODEL, required=True),
        "source": Known(SOURCE),
        "harness": Known(one_of("exllamav2", "llamacpp", "upstream"), former=("candle",)),
        "quant": Known(NAME),
        "revision": Known(REVISION),
        "context": Known(whole(1, 2**31)),
        "cache": CACHE,
        "footprint": Known(sizes(1)),
        "min_devices": Known(whole(1, 64)),
        "min_device_memory": Known(sizes()),
        "pinned_on": Known(NAME, form="list"),
        "residency_priority": Known(whole(0, 2**31)),
        "cache_tokens": Known(whole(1, 2**31)),
        "draft": Known(DRAFT),
        "speculation": Known(one_of("ngram")),
        "lora": Known(FOLDER, form="list"),
        "pooling": Known(one_of("mean", "cls", "last")),
        "idle_unload_s": Known(spans()),
        "slots": Known(whole(1, 1024)),
        "aliases": Known(MODEL, form="list"),
        "capabilities": Known(NAME, form="list"),
        "cost": COST,
        "sampling": SAMPLING,
        "vram_mb": Known(whole(1, 2**31), old="is read as footprint, in MiB; write footprint instead"),
        "min_device_vram_mb": Known(
            whole(0, 2**31), old="is read as min_device_memory, in MiB; write min_device_memory instead"
        ),
        "limit": LIMIT,
    }
)

ALIASES: Final = Known(MODEL, form="map", names=MODEL)
ALIAS_SAMPLING: Final = Table(SAMPLING.keys, named=MODEL)

MODELS_FILE: Final = Table(
    {"models": Table(MODEL_KEYS.keys, many=True), "aliases": ALIASES, "alias_sampling": ALIAS_SAMPLING}
)

# cortex.toml

# As discovery calls them; a test holds them to what the translator has.
DIALECT: Final = one_of(
    "openai_chat", "openai_text", "openai_responses", "openai_embeddings", "anthropic_messages"
)

GATEWAY_FILE: Final = Table(
    {
        "models_config": Known(PATH, old="is read as gateway.models_config; write it there"),
        "gateway": Table(
            {
                "listen": Known(ADDRESS),
                "metrics_listen": Known(ADDRESS),
                "models_config": Known(PATH),
                "trusted_networks": Known(NETWORK, form="list"),
                "allowed_hosts": Known(HOST, form="list"),
                "allowed_origins": Known(ORIGIN, form="list"),
                "trusted_proxies": Known(NETWORK, form="list"),
                "anonymous": Known(FLAG),
                "workers": Known(whole(1, MOST_WORKERS)),
                "log_format": LOG_FORMAT,
            }
        ),
        "eviction": Table({"strategy": STRATEGY, "defrag_after_cycles": DEFRAG}),
        "cold_load": Table(
            {
                "max_wait_s": Known(spans()),
                "max_overtake_s": Known(spans()),
                "min_residency_s": Known(spans()),
            }
        ),
        "limits": Table(
            {
                "body": Known(sizes(1024)),
                "header": Known(sizes(1024)),
                "connections": Known(whole(1, 10**6)),
                "queue": Known(whole(0, 10**6)),
                "queue_wait_s": Known(spans()),
                "drain_s": Known(spans()),
                "stall_s": Known(spans(LEAST_S)),
                "first_token_s": Known(spans(LEAST_S)),
                "upstream_stall_s": Known(spans(LEAST_S)),
                "header_s": Known(spans(LEAST_S)),
                "request_body_s": Known(spans(LEAST_S)),
            }
        ),
        "poll": Table(
            {
                "interval_s": Known(spans(LEAST_S)),
                "timeout_s": Known(spans(LEAST_S)),
                "failures": Known(whole(1, 1000)),
            }
        ),
        "neurons": Table(
            {
                "name": Known(NAME, required=True),
                "endpoint": Known(ENDPOINT, required=True),
                "token_file": Known(PATH),
                "dialects": Known(DIALECT, form="list"),
            },
            many=True,
        ),
        "discovery": Table(
            {
                "dns": Known(SERVICE, required=True),
                "interval_s": Known(spans(LEAST_S)),
                "token_file": Known(PATH),
                "nameservers": Known(NAMESERVER, form="list"),
            }
        ),
        "keys": Table(
            {
                "name": Known(NAME, required=True),
                "sha256": Known(SHA256, required=True),
                "scopes": Known(one_of("inference", "admin"), form="list"),
                "models": Known(GLOB, form="list"),
                "max_in_flight": Known(whole(1, MOST_IN_FLIGHT)),
                "requests_per_minute": Known(whole(1, MOST_A_MINUTE)),
                "tokens_per_day": Known(whole(1, MOST_A_DAY)),
                "expires": Known(EXPIRY),
                "share": Known(number(LEAST_SHARE, MOST_SHARE)),
            },
            many=True,
        ),
        "aliases": ALIASES,
        "alias_sampling": ALIAS_SAMPLING,
    }
)

# neuron.toml

NEURON_FILE: Final = Table(
    {
        "neuron": Table(
            {
                "name": Known(NAME),
                "listen": Known(ADDRESS),
                "metrics_listen": Known(ADDRESS),
                "models_config": Known(PATH),
                "token_file": Known(PATH),
                "trusted_networks": Known(NETWORK, form="list"),
                "allowed_hosts": Known(HOST, form="list"),
                "model_roots": Known(PATH, form="list"),
                "state_dir": Known(PATH),
                "log_format": LOG_FORMAT,
            }
        ),
        "devices": Table(
            {
                "use": Known(DEVICE, form="list"),
                "memory_limit": Known(sizes(1)),
                "memory_headroom": Known(sizes()),
                "groups": Known(GROUP, form="list"),
                "turn_stall_s": Known(spans(LEAST_S)),
                "warmup_stall_s": Known(spans(LEAST_S)),
                "load_stall_s": Known(spans(LEAST_S)),
                "poison_drain_s": Known(spans()),
            }
        ),
        "eviction": Table(
            {"strategy": STRATEGY, "min_residency_s": Known(spans()), "defrag_after_cycles": DEFRAG}
        ),
        "harness": Table(
            {
                "llamacpp": Table(
                    {
                        "isolation": Known(ISOLATION),
                        "threads": Known(whole(1, 1024)),
                        "batch": Known(whole(1, 65536)),
                        "mmap": Known(FLAG),
                    }
                ),
                "exllamav2": Table(
                    {
                        "isolation": Known(ISOLATION),
                        "cache": CACHE,
                        "chunk": Known(multiples(256, 65536)),
                        "attention": Known(one_of("auto", "flash-attn", "paged", "triton", "unpaged")),
                    }
                ),
                "upstream": Table(
                    {
                        "endpoints": Known(UPSTREAM_URL, form="list"),
                        "api_key_env": Known(VARIABLE),
                        "api_key_file": Known(PATH),
                        "kind": Known(one_of(*UPSTREAM_KINDS)),
                        "slots": Known(whole(1, 1024)),
                        "connect_s": Known(spans(LEAST_S)),
                        "first_token_s": Known(spans(LEAST_S)),
                        "stall_s": Known(spans(LEAST_S)),
                        "look_s": Known(spans(LEAST_S)),
                    }
                ),
            }
        ),
        "hub": Table(
            {
                "cache_dir": Known(PATH),
                "token_env": Known(VARIABLE),
                "endpoint": Known(HUB_URL),
                "offline": Known(FLAG),
            }
        ),
        "admission": Table(
            {
                "slots": Known(whole(1, 1024)),
                "queue": Known(whole(0, 10**6)),
                "max_wait_s": Known(spans()),
            }
        ),
        "default_models": Table(MODEL_KEYS.keys, many=True),
    }
)
