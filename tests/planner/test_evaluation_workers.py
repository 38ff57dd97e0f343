"""Whole evaluations of the digits: what is killed loses nothing, and every kind of worker gives the same records."""

import json
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from piqi_planner.accuracy import Samples, fit_accuracy
from piqi_planner.cost import make_cost
from piqi_planner.demo import MODEL
from piqi_planner.demo.digits import load
from piqi_planner.estimate import estimate_profile
from piqi_planner.evaluation.dataset import DatasetError, open_evaluation_set
from piqi_planner.evaluation.evaluator import Evaluator
from piqi_planner.evaluation.metrics import make_metric
from piqi_planner.evaluation.store import EvaluationStore
from piqi_planner.evaluation.tasks import EvaluationContext, Task, run_task
from piqi_planner.evaluation.workers import DaskWorkers, LocalWorkers, Workers, WorkersError, parse_bytes
from piqi_planner.importer import import_model
from piqi_planner.layers import assign_layers
from piqi_planner.quantise import calibrate, quantise
from piqi_planner.search import search
from piqi_runtime.boards import load_board

FRAMES = 300
MASKS = np.random.default_rng(0).random((60, 10)) < 0.5
WAIT_S = 60


class InThisProcess(Workers):
    """One task after the other."""

    def __init__(self, context):
        self.context, self.count, self.closed = context, 1, False

    def run(self, tasks):
        for task in tasks:
            yield task, run_task(self.context, task)

    def close(self):
        self.closed = True


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    _, _, frames, labels = load()
    rows = ["file,label"]
    for i in range(FRAMES):
        pixels = np.rint((frames[i, ..., 0] + 1) * 127.5).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03}.png")
        rows.append(f"{i:03}.png,{labels[i]}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    model = assign_layers(import_model(MODEL))
    images = open_evaluation_set(folder, model.tensors[model.inputs[0]].shape, tmp_path_factory.mktemp("cache"))
    both = quantise(model, calibrate(model, [images.frames(0, 16)]), "per_tensor")
    metric = make_metric("top1", images, both.float_model)
    return EvaluationContext(both.float_model, both.model, metric, images, images.content_hash)


def contents(path):
    """All that a store holds; a process that writes to it may have been killed."""
    with closing(sqlite3.connect(path)) as database:
        key = database.execute("SELECT * FROM key ORDER BY name").fetchall()
        return key, database.execute("SELECT * FROM records ORDER BY mask, block").fetchall()


def finish(path, context, workers):
    with EvaluationStore(path, context.key) as store:
        Evaluator(context, store, workers).evaluate(MASKS)
    return contents(path)


@pytest.fixture(scope="module")
def expected(context, tmp_path_factory):
    """What a store holds after all masks were evaluated without any trouble."""
    key, rows = finish(tmp_path_factory.mktemp("expected") / "store.sqlite", context, InThisProcess(context))
    assert len(rows) == len(np.unique(MASKS, axis=0)) * -(-FRAMES // 32)
    return key, rows


def test_summaries_are_of_all_frames(context, expected, tmp_path):
    path = tmp_path / "store.sqlite"
    done = []
    with EvaluationStore(path, context.key) as store, LocalWorkers(context, count=2) as workers:
        evaluator = Evaluator(context, store, workers)
        evaluator.evaluate(np.concatenate([MASKS[:3], np.zeros((1, 10), bool)]), done.append)
        exact, some = evaluator.summary(np.zeros(10, bool)), evaluator.summary(MASKS[0])
        evaluator.evaluate(MASKS[:3], done.append)  # nothing is left to do
        evaluator.evaluate(MASKS)
    assert exact.frames == FRAMES and exact.value > 95 and exact.difference == 0
    assert some.difference == pytest.approx(some.value - exact.value) and some.lower_bound < some.value
    assert done == sorted(done) and done[-1] == 1
    known = set(expected[1])
    found = contents(path)[1]
    assert known <= set(found) and len(found) == len(known) + -(-FRAMES // 32)  # and the network without any


def test_single_frames_give_what_batches_give(context, expected, tmp_path):
    alone = EvaluationContext(
        context.exact, context.quantised, context.metric, context.dataset, context.images_hash, batch=1
    )
    assert alone.key == context.key
    run_task.__globals__["_of_thread"].__dict__.clear()  # a worker is kept by its key
    assert finish(tmp_path / "store.sqlite", context, InThisProcess(alone)) == expected


EVALUATE = """
import pickle, sys
from piqi_planner.evaluation.evaluator import Evaluator
from piqi_planner.evaluation.store import EvaluationStore
from piqi_planner.evaluation.workers import LocalWorkers

def told(done):
    print(*(process.pid for process in workers._processes.values()), flush=True)
    sys.stdin.readline()

if __name__ == "__main__":
    with open(sys.argv[1], "rb") as file:
        context, masks = pickle.load(file)
    with EvaluationStore(sys.argv[2], context.key) as store, LocalWorkers(context, count=2) as workers:
        Evaluator(context, store, workers).evaluate(masks, told)
"""


@contextmanager
def evaluating(context, folder, path):
    """Another process that evaluates the masks and waits after the second task, and those that work for it."""
    script, arguments = folder / "evaluate.py", folder / "arguments"
    script.write_text(EVALUATE)
    arguments.write_bytes(pickle.dumps((context, MASKS)))
    command = [sys.executable, str(script), str(arguments), str(path)]
    options = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, text=True, start_new_session=True, **options) as process:
        try:
            process.stdout.readline()
            process.stdin.write("go on\n")
            process.stdin.flush()
            workers = [int(number) for number in process.stdout.readline().split()]
            assert len(workers) == 2, process.communicate()[1]
            assert within(WAIT_S, lambda: all(map(ignores_interrupts, workers)))
            yield process, workers
        finally:
            process.kill()


def within(seconds, condition):
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def ignores_interrupts(number):
    (line,) = (line for line in Path(f"/proc/{number}/status").read_text().splitlines() if line.startswith("SigIgn"))
    return bool(int(line.split()[1], 16) >> (signal.SIGINT - 1) & 1)


def ended(numbers):
    """Waits until none of the processes runs."""

    def runs(number):
        try:
            return Path(f"/proc/{number}/cmdline").read_bytes() != b""  # nobody may have asked how it ended
        except OSError:
            return False

    return within(WAIT_S, lambda: not any(map(runs, numbers)))


def test_killed_evaluation_goes_on(context, expected, tmp_path):
    path = tmp_path / "store.sqlite"
    with evaluating(context, tmp_path, path) as (process, workers):
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert ended(workers)  # its workers do not outlive it
    known = contents(path)[1]
    assert 0 < len(known) < len(expected[1]) and set(known) <= set(expected[1])
    assert finish(path, context, InThisProcess(context)) == expected


def test_interrupt_is_the_parents_alone(context, expected, tmp_path):
    path = tmp_path / "store.sqlite"
    with evaluating(context, tmp_path, path) as (process, workers):
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=WAIT_S)
    assert errors.count("Traceback") == 1 and errors.rstrip().endswith("KeyboardInterrupt")
    assert ended(workers) and set(contents(path)[1]) <= set(expected[1])


def test_killed_worker_loses_nothing(context, expected, tmp_path):
    path = tmp_path / "store.sqlite"
    killed = []

    def kill(done):
        alive = [process for process in workers._processes.values() if process not in killed]
        if len(killed) < 2:
            killed.append(alive[0])
            alive[0].kill()

    with EvaluationStore(path, context.key) as store, LocalWorkers(context, count=2) as workers:
        Evaluator(context, store, workers).evaluate(MASKS, kill)
    assert len(killed) == 2 and contents(path) == expected


def test_worker_killed_while_it_sends(context):
    masks = np.array(list(product((False, True), repeat=9)))
    masks = np.concatenate([masks, masks[:, :1]], axis=1)  # more than a connection takes before somebody reads
    tasks = [Task(block, 32 * block, 32, masks) for block in range(3)]
    found = []
    with LocalWorkers(context, count=1) as workers:
        for task, records in workers.run(tasks):
            found.append((task, records))
            if len(found) == 1:
                ((connection, process),) = workers._processes.items()
                assert connection.poll(WAIT_S)
                process.kill()
                process.join()
        ((_, other),) = workers._processes.items()
    assert [task for task, _ in found] == tasks and other is not process
    for task, records in found:
        np.testing.assert_array_equal(records, run_task(context, task))


def test_workers_that_keep_dying(context, monkeypatch):
    killed = []

    def start(workers):
        connection = LocalWorkers._start(workers)
        process = workers._processes[connection]
        killed.append(process.pid)
        process.kill()
        return connection

    with LocalWorkers(context, count=2) as workers:
        monkeypatch.setattr(workers, "_start", partial(start, workers))
        with pytest.raises(WorkersError, match="a worker process died 4 times; is memory short"):
            list(workers.run([Task(0, 0, 32, MASKS)] * 3))
    assert len(killed) in (4, 5) and ended(killed)


def test_an_error_of_a_task_is_raised_and_leaves_nothing_behind(context):
    right = [Task(block, 32 * block, 32, MASKS) for block in range(4)]
    wrong = Task(9, len(context.dataset), 32, MASKS)
    with LocalWorkers(context, count=2) as workers:
        with pytest.raises(DatasetError, match=r"frames 300 to 331 of 300") as caught:
            list(workers.run([*right[:2], wrong, *right[2:]]))
        assert "run_task" in str(caught.value.__cause__)
        found = dict(workers.run(right))
    assert {*found} == {*right}
    for task, records in found.items():
        np.testing.assert_array_equal(records, run_task(context, task))


def test_memory_limit(context):
    needed = context.memory_bytes()
    with pytest.raises(WorkersError, match=rf"--memory: .* needs about {needed >> 20} MiB, got {(needed - 1) >> 20}"):
        LocalWorkers(context, needed - 1)
    assert LocalWorkers(context, needed, count=4).count == 1
    assert LocalWorkers(context, 2 * needed + 1, count=4).count == 2
    assert LocalWorkers(context, 1 << 40, count=4).count == 4
    assert parse_bytes("1.5GiB") == 3 << 29 and parse_bytes("512m") == 512 << 20
    with pytest.raises(WorkersError, match="--memory: expected a size such as 2G or 512M, got 'all'"):
        parse_bytes("all")


def test_memory_need_holds(context):
    """A process that evaluates needs no more than it was said to."""
    script = (
        "import pickle, sys\n"
        "from piqi_planner.evaluation.tasks import Task, run_task\n"
        "context, masks = pickle.load(open(sys.argv[1], 'rb'))\n"
        "run_task(context, Task(0, 0, 32, masks))\n"
        "print(*(line for line in open('/proc/self/status') if line.startswith('VmHWM')))\n"
    )
    file = Path(context.dataset.pixels_file).with_name("context.pickle")
    file.write_bytes(pickle.dumps((context, MASKS)))
    run = subprocess.run([sys.executable, "-c", script, str(file)], capture_output=True, text=True, timeout=WAIT_S)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout.split()[1]) << 10 <= context.memory_bytes()


@contextmanager
def cluster(folder, workers):
    """The address of a real scheduler, and its workers' processes."""
    distributed = pytest.importorskip("distributed")
    file = folder / "scheduler.json"
    place = ["--host", "127.0.0.1", "--no-dashboard"]
    with ExitStack() as stack:
        patches = stack.enter_context(pytest.MonkeyPatch.context())
        patches.setattr("piqi_planner.evaluation.workers.CLUSTER_S", float(WAIT_S))

        def start(kind, *arguments):
            with open(folder / f"{kind}.log", "a") as log:
                command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *place, *arguments]
                process = stack.enter_context(subprocess.Popen(command, stdout=log, stderr=log, cwd=folder))
            stack.callback(process.kill)
            return process

        start("scheduler", "--port", "0", "--scheduler-file", str(file))
        own = ["--scheduler-file", str(file), "--nthreads", "1", "--no-nanny", "--local-directory", str(folder)]
        address = ""

        def written():
            nonlocal address
            with suppress(OSError, ValueError):  # it is not there yet, or not whole
                address = json.loads(file.read_text())["address"]
            return address

        assert within(WAIT_S, written)
        processes = [start("worker", *own) for _ in range(workers)]
        with distributed.Client(address, timeout=WAIT_S) as client:
            client.wait_for_workers(workers, timeout=WAIT_S)
        yield address, processes


@pytest.fixture(scope="module")
def dask(tmp_path_factory):
    with cluster(tmp_path_factory.mktemp("dask"), 2) as found:
        yield found


def test_search_on_a_cluster(context, dask):
    rng = np.random.default_rng(1)
    masks = rng.random((40, 10)) < 0.5
    accuracy = fit_accuracy(Samples(masks, 97 - masks @ rng.uniform(0, 1, 10)))
    profile = estimate_profile(context.exact, load_board("rk3588"), "digits").model("digits")
    cost, floors = make_cost("calibrated", profile), [93.0, 94.0, 95.0]
    local = search("greedy", cost, accuracy, floors, states=profile.states_for("all"), jobs=2)
    with DaskWorkers(context, dask[0]) as workers:
        found = search("greedy", cost, accuracy, floors, states=profile.states_for("all"), jobs=2, pool=workers.pool)
    assert list(found) == list(local)
    for floor, front in local.items():
        assert len(front) and front.configs.tobytes() == found[floor].configs.tobytes()
        assert front.latency_ms.tobytes() == found[floor].latency_ms.tobytes()


def test_cluster_that_loses_a_worker(context, expected, dask, tmp_path):
    """The last test on this cluster: one of its workers is killed, and takes tasks with it."""
    address, processes = dask
    path = tmp_path / "store.sqlite"
    calls = []

    def kill(done):
        calls.append(done)
        if len(calls) == 3:
            processes[0].kill()

    with EvaluationStore(path, context.key) as store, DaskWorkers(context, address) as workers:
        workers._client.wait_for_workers(2, timeout=WAIT_S)
        Evaluator(context, store, workers).evaluate(MASKS, kill)
    assert processes[0].wait() == -signal.SIGKILL and processes[1].poll() is None
    assert len(calls) > 8 and contents(path) == expected  # more tasks than the cluster takes at once


def test_lost_cluster(context, tmp_path):
    with (
        cluster(tmp_path, 1) as (address, processes),
        EvaluationStore(tmp_path / "store.sqlite", context.key) as store,
        DaskWorkers(context, address) as workers,
        pytest.raises(WorkersError, match=rf"--dask: the cluster at {address} was lost"),
    ):
        Evaluator(context, store, workers).evaluate(MASKS, lambda done: processes[0].kill())


@pytest.mark.usefixtures("no_cluster")
def test_no_cluster(context):
    with pytest.raises(WorkersError, match=r"--dask: no scheduler answers at tcp://127\.0\.0\.1:1: "):
        DaskWorkers(context, "tcp://127.0.0.1:1")
    with pytest.raises(WorkersError, match="--dask: no scheduler answers at nowhere: "):
        DaskWorkers(context, "nowhere")
