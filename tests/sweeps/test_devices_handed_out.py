"""GPUs that a study may use, and which worker gets which, with a made-up machine: nothing here needs a GPU."""

import pytest
import sweeps_fakes as fakes

from arch.errors import SpecError
from experiments import gpus
from experiments.gpus import Device
from experiments.plan import RunPlan
from experiments.spec import ExperimentSpec
from sweeps import devices
from sweeps.job import Job
from sweeps.pool import Pool, worker_count

GIB = 1 << 30
SMI = """0, GPU-aa, NVIDIA H100, 81559, 80000
1, GPU-bb, NVIDIA H100, 81559, 1000
2, GPU-cc, NVIDIA H100, 81559, [N/A]
"""


def machine(*free):
    """GPUs with so many GiB free."""
    return [Device(str(i), f"GPU-{i}", "H100", 80 * GIB, size * GIB) for i, size in enumerate(free)]


@pytest.fixture
def job(tiny, tmp_path):
    """job(devices, **train): a run on so many GPUs, whose training takes 10 GiB on each."""

    def made(count=1, accelerator="gpu", **train):
        spec = ExperimentSpec.parse(tiny | {"train": tiny["train"] | {"accelerator": accelerator, "devices": count} | train})
        plan = RunPlan(spec=spec, identity="x", cost={"training_bytes": {"weights": 10 * GIB, "activations": 0, "total": 10 * GIB}})
        return Job("a", 0, plan, tmp_path)

    return made


@pytest.mark.parametrize(
    "allowed, numbers", [(None, "0 1 2"), ("2,0", "2 0"), ("GPU-bb", "1"), ("", ""), ("0,7,1", "0"), ("-1", "")]
)
def test_a_process_sees_what_its_environment_allows(allowed, numbers, monkeypatch):
    """In that order, and none from the first on that is not there, as CUDA has it."""
    monkeypatch.delenv(gpus.VARIABLE, raising=False)
    assert [each.number for each in gpus.visible(lambda: SMI, allowed)] == numbers.split()
    assert gpus.visible(lambda: "", allowed) == []


def test_sizes_are_bytes_and_what_is_not_known_is_none():
    first, second, third = gpus.visible(lambda: SMI, "0,1,2")
    assert (first.free, second.total, third.free) == (80000 << 20, 81559 << 20, None)


def test_a_gpu_that_other_jobs_fill_is_left_out_and_named(job):
    said = []
    handing = devices.of_study([], [job()], said.append, machine(80, 5, 70))
    assert [each.number for each in handing.devices] == ["0", "2"]
    assert [text.replace("\xa0", " ") for text in said] == [
        "GPU 1 is left out: 5.37 GB of 85.9 GB are free, a run needs about 10.7 GB"
    ]
    with pytest.raises(SpecError, match="2 GPUs for a run, but 1 GPU of 2 has enough free memory: GPU 1 is left out"):
        devices.of_study([], [job(2)], said.append, machine(80, 5))


@pytest.mark.parametrize("count, there, has", [(1, 0, "no GPU"), (2, 1, "1 GPU"), (4, 3, "3 GPUs")])
def test_devices_that_are_not_there_are_refused_with_their_number(count, there, has, job):
    with pytest.raises(SpecError, match=f"{count} GPUs? for a run, but this machine has {has}$"):
        devices.of_study([], [job(count)], print, machine(*[80] * there))


def test_a_study_on_cpus_is_handed_nothing(job):
    assert devices.of_study([], [job(accelerator="cpu")], print, machine(80)) is None


def test_there_are_as_many_workers_as_runs_that_the_gpus_and_cores_are_enough_for(job):
    handing = devices.of_study([], [job()], print, machine(80, 80, 80))
    assert worker_count([job()] * 9, available=64, devices=handing) == 3
    assert worker_count([job(2)] * 9, available=64, devices=handing) == 1
    assert worker_count([job(threads=4)] * 9, available=8, devices=handing) == 2
    with pytest.raises(SpecError, match=r"--workers 4: at most 3, with 1 GPU\(s\) per run"):
        worker_count([job()] * 9, asked=4, available=64, devices=handing)


def test_processes_on_a_cpu_count_against_its_cores(job):
    jobs = [job(2, "cpu", threads=2)] * 9
    assert worker_count(jobs, available=8) == 2 and worker_count(jobs, available=3) == 1
    with pytest.raises(SpecError, match=r"4 threads per run \(train.threads x train.devices\) on 8 core\(s\)"):
        worker_count(jobs, asked=3, available=8)


def test_a_device_is_in_one_hand_at_a_time():
    handing = devices.Handing(machine(80, 80, 80, 80))
    one, two = handing.take(1), handing.take(2)
    assert not {each.number for each in one} & {each.number for each in two}
    with pytest.raises(ValueError, match="2 devices wanted, 1 are free"):
        handing.take(2)
    handing.give(one)
    assert {each.number for each in handing.free} == {"0", "3"}
    assert devices.variables(two) == {gpus.VARIABLE: "1,2"} and devices.variables([]) == {}


def test_sharding_divides_the_memory_of_weights_and_not_that_of_rows(job):
    assert gpus.needed(job(2, strategy="fsdp2").plan) == gpus.needed(job(2, strategy="ddp").plan) / 2 == 5 * GIB


def test_a_worker_sees_only_what_it_was_handed_and_gives_it_back(job):
    jobs, told = [job(2), job(1), job(2)], []
    handing = devices.Handing(machine(80, 80)[::-1])
    with Pool(1, fakes.saying_gpus, devices=handing) as pool:
        pool.run(lambda: jobs.pop(0) if jobs else None, lambda event: event.outcome and told.append(event.outcome.message))
    assert [each.partition("GPUs ")[2] for each in told] == ["1,0", "1", "1,0"]
