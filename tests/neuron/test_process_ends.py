"""A neuron that cannot go on says so to everybody, and ends (rows 74, 76, 77).

Real processes with short limits; what they leave behind is read by the next one.
"""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.fake_doomed import REQUEST_ID, Doomed, doomed

pytestmark = pytest.mark.slow


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights", tmp_path / "state"


def test_a_lost_device_ends_its_streams_with_an_error_and_the_process_with_71(
    folders: tuple[Path, Path],
) -> None:
    """Row 76: at once, since nothing else is served."""
    with doomed(*folders) as neuron:
        status, told = neuron.chat("lost")
        assert status == 200
        assert "illegal memory access" in told
        assert '"error"' in told
        assert "[DONE]" not in told
        code, log = neuron.end()
    assert code == 71
    assert "device.poisoned device=cpu-dev-0" in log
    assert "cortex: device cpu is poisoned" in log


@pytest.mark.parametrize("model", ["hangs", "hangs-loading"])
def test_a_hang_ends_with_an_error_event_a_stack_dump_and_70(folders: tuple[Path, Path], model: str) -> None:
    """Row 77: and it is told where, with whom and in what."""
    with doomed(*folders) as neuron:
        status, told = neuron.chat(model)
        if model == "hangs":
            assert status == 200
            assert "hung: no sign of life" in told
            assert "[DONE]" not in told
        code, log = neuron.end()
    assert code == 70
    phase, served = ("turn", REQUEST_ID) if model == "hangs" else ("load", "-")
    assert f"device.hung device=cpu phase={phase} model={model}" in log
    assert f"requests={served}" in log
    assert "most recent call first" in log
    assert "in hang" in log


def test_an_interpreter_that_is_never_given_back_ends_too(folders: tuple[Path, Path]) -> None:
    """Row 77, holding the GIL: nothing in Python can say anything, but the stacks are told."""
    with doomed(*folders) as neuron:
        neuron.chat("holds")
        code, log = neuron.end()
    assert code == -signal.SIGALRM
    assert "in hold_interpreter" in log


def test_a_process_that_is_stopped_for_longer_than_any_limit_goes_on(folders: tuple[Path, Path]) -> None:
    with doomed(*folders) as neuron:
        answers: list[tuple[int, str]] = []
        streaming = threading.Thread(target=lambda: answers.append(neuron.chat("endless", max_tokens=4000)))
        streaming.start()
        while not neuron.get("/models")["models"]:
            time.sleep(0.01)
        os.kill(neuron.process.pid, signal.SIGSTOP)
        with pytest.raises(Exception, match="timed out"):
            neuron.process.wait(2.5)
        os.kill(neuron.process.pid, signal.SIGCONT)
        streaming.join(20)
        assert answers[0][0] == 200
        assert "[DONE]" in answers[0][1]
        assert neuron.chat("fine")[0] == 200


@pytest.mark.parametrize("model", ["aborts", "aborts-loading"])
def test_a_model_that_took_two_processes_down_is_kept_out_of_the_third(
    folders: tuple[Path, Path], model: str
) -> None:
    """Row 74: by the journal that the dead leave; until an operator says otherwise."""
    for _ in range(2):
        with doomed(*folders) as neuron:
            assert neuron.chat("fine")[0] == 200
            assert neuron.chat(model)[1].count("[DONE]") == 0
            code, log = neuron.end()
            assert code == -signal.SIGABRT
            assert "model.quarantined" not in log
    with doomed(*folders) as neuron:
        status, told = neuron.chat(model)
        assert status == 422
        assert f"Model '{model}' is in quarantine" in told
        assert "crashes.json" in told
        assert neuron.chat("fine")[0] == 200
        health, discovery = neuron.get("/health"), neuron.get("/discovery")
        assert health["status"] == "degraded"
        assert [(each["model"], len(each["crashes"])) for each in health["quarantined"]] == [(model, 2)]
        assert discovery["quarantined"] == health["quarantined"]
        page = neuron.page()
        assert "cortex_models_quarantined 1.0" in page
        assert 'cortex_device_faults_total{kind="crash"} 1.0' in page
        assert discovery["last_crash"]["models"] == [model]
        assert discovery["last_crash"]["boot_id"] != discovery["boot_id"]
        served = [REQUEST_ID] if model == "aborts" else []
        assert discovery["last_crash"]["request_ids"] == served
        _lifted(neuron, folders, model)


def _lifted(neuron: Doomed, folders: tuple[Path, Path], model: str) -> None:
    if model == "aborts":
        # The order is carried out, and the model comes in.
        spec = {"id": model, "source": f"path:{folders[0] / model}.gguf"}
        assert neuron.post("/models/load", {"spec": spec})[0] == 422
        assert neuron.post("/models/load", {"spec": spec, "force": True})[0] == 200
    else:
        (folders[1] / "crashes.json").unlink()
        assert neuron.chat(model)[0] != 422
        assert neuron.end()[0] == -signal.SIGABRT


def test_a_file_that_has_changed_is_another_model(folders: tuple[Path, Path]) -> None:
    for _ in range(2):
        with doomed(*folders) as neuron:
            neuron.chat("aborts")
            neuron.end()
    (folders[0] / "aborts.gguf").write_bytes(b"another file")
    with doomed(*folders) as neuron:
        assert neuron.chat("aborts")[0] != 422
        assert neuron.end()[0] == -signal.SIGABRT


def test_a_process_that_was_told_to_end_did_not_crash(folders: tuple[Path, Path]) -> None:
    """However rudely."""
    for _ in range(2):
        with doomed(*folders) as neuron:
            streaming = threading.Thread(target=neuron.chat, args=("endless",))
            streaming.start()
            while not neuron.get("/models")["models"]:
                time.sleep(0.01)
            neuron.process.send_signal(signal.SIGTERM)
            assert neuron.process.stderr is not None
            for line in neuron.process.stderr:
                if "neuron.draining" in line:
                    break
            neuron.process.send_signal(signal.SIGTERM)
            assert neuron.end()[0] in (143, 0)
            streaming.join(20)
    with doomed(*folders) as neuron:
        assert neuron.get("/discovery").get("last_crash") is None
        assert neuron.get("/health")["status"] == "ok"
