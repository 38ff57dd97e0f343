"""Board files: the three that ship, the errors of wrong ones, and what depends on the machine."""

import csv
import logging
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

import piqi_native
from piqi_runtime import boards
from piqi_runtime.boards import BOARDS, Board, BoardError, find_domain, load_board

SHIPPED = sorted(path.stem for path in BOARDS.glob("*.toml"))

SMALL = """
name = "small"

[[processors]]
letter = "L"
name = "little"
kind = "cpu"
backend = "armcl_neon"
cpus = [0]
freqs_khz = [400_000, 800_000]
domains = [["sys/policy0"], ["sys/missing", "sys/devfreq/*.cpu"]]

[[processors]]
letter = "N"
name = "npu"
kind = "npu"
backend = "rknn2"
host = "L"
weights = "per_channel"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "board.toml"
    path.write_text(text)
    return path


def add(path: Path, **lines: object) -> None:
    """A folder with these files, one line each."""
    path.mkdir(parents=True)
    for name, text in lines.items():
        (path / name).write_text(f"{text}\n")


def line(path: Path) -> str:
    """What a sysfs file would read as: sysfs drops what was there before, an ordinary file keeps the rest."""
    return path.read_text().splitlines()[0]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_board_loads_and_reaches_the_executor(name: str) -> None:
    board = load_board(name)
    assert board.name == name
    assert board.letters == "LBGN"
    native = board.to_native()
    assert native.name == name
    assert [p.letter for p in native.processors] == list("LBGN")
    assert [tuple(p.freqs_khz) for p in native.processors] == [p.freqs_khz for p in board.processors]


def test_shipped_boards_are_those_that_are_promised() -> None:
    assert {"host", "rk3399pro", "rk3588"} <= set(SHIPPED)
    assert load_board("rk3399pro").processor("N").weights == "per_tensor"
    assert load_board("rk3588").processor("N").weights == "per_channel"


def test_rk3399pro_has_the_measured_operating_points(data_dir: Path) -> None:
    """The indices of the published measurements are indices into our tables."""
    board = load_board("rk3399pro")
    own: dict[str, set[int]] = {}
    hosts: dict[str, set[int]] = {}
    with open(data_dir / "rk3399pro/layers.csv") as file:
        for row in csv.DictReader(file):
            own.setdefault(row["processor"], set()).add(int(row["freq_index"] or 0))
            hosts.setdefault(row["processor"], set()).add(int(row["host_freq_index"] or 0))
    for letter in "LBG":
        assert own[letter] == set(range(board.processor(letter).opp_count)), letter
    assert max(hosts["G"]) == board.processor("B").opp_count - 1


def test_host_uses_the_cpus_of_this_process() -> None:
    available = os.sched_getaffinity(0)
    board = load_board("host")
    assert set(board.cpus("L")) | set(board.cpus("B")) == available
    assert len(available) == 1 or not set(board.cpus("L")) & set(board.cpus("B"))
    assert set(board.cpus("G")) == set(board.cpus("N")) == available


def test_host_takes_its_operating_points_from_cpufreq(tmp_path: Path) -> None:
    """A machine whose low CPU numbers are the fast ones; L is the slow half all the same."""
    available = sorted(os.sched_getaffinity(0))
    cpufreq = tmp_path / "sys/devices/system/cpu/cpufreq"
    for i, cpu in enumerate(available):
        speeds = "600000 300000" if i else "1500000 1000000"
        add(cpufreq / f"policy{cpu}", scaling_available_frequencies=speeds, scaling_governor="schedutil",
            cpuinfo_max_freq=speeds.split()[0])  # fmt: skip
        (cpufreq.parent / f"cpu{cpu}").mkdir()
        (cpufreq.parent / f"cpu{cpu}/cpufreq").symlink_to(f"../cpufreq/policy{cpu}")
    board = load_board("host", root=tmp_path)
    assert available[0] in board.cpus("B")
    if len(available) > 1:
        assert available[0] not in board.cpus("L")
        assert board.processor("L").freqs_khz == (300_000, 600_000)
    assert board.processor("L").domains == tuple(
        (f"sys/devices/system/cpu/cpufreq/policy{cpu}",) for cpu in board.cpus("L")
    )


def test_host_without_cpufreq_has_one_operating_point(tmp_path: Path) -> None:
    processor = load_board("host", root=tmp_path).processor("L")
    assert (processor.freqs_khz, processor.domains, processor.opp_count) == ((), (), 1)


def test_board_by_path(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL)
    board = load_board(path)
    assert board == load_board(str(path))
    assert board.cpus("N") == (0,)
    assert (board.processor("N").precision, board.processor("L").precision) == ("int8", "float32")
    with pytest.raises(BoardError, match="board small has no processor 'G', only LN"):
        board.processor("G")
    with pytest.raises(ValidationError):
        board.name = "other"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "cpus = [0]",
            "cpus = [0, -1]",
            "processors[0].cpus[1]: Input should be greater than or equal to 0, got -1",
        ),
        ("cpus = [0]", "cpus = [0, 0]", "processors[0].cpus: a CPU is named twice, got [0, 0]"),
        ("cpus = [0]", "cpus = ['0']", "processors[0].cpus[0]: Input should be a valid integer, got '0'"),
        (
            "cpus = [0]",
            "cpus = 'auto:most'",
            "processors[0]: cpus: must be a list of numbers or one of auto:all",
        ),
        ("cpus = [0]", "", "processors[0]: cpus: a cpu names its CPUs, got () (L is a cpu)"),
        ("cpus = [0]", "cpus = [0]\ncolour = 'red'", "processors[0].colour: is not a key, got 'red'"),
        (
            "cpus = [0]",
            "cpus = [0]\nthreads = 0",
            "processors[0].threads: Input should be greater than 0, got 0",
        ),
        (
            "400_000, 800_000",
            "800_000, 400_000",
            "processors[0].freqs_khz: frequencies must rise, got [800000, 400000]",
        ),
        (
            "freqs_khz = [400_000, 800_000]",
            "",
            "processors[0]: domains: domains without freqs_khz cannot be set",
        ),
        ('["sys/policy0"]', "[]", "processors[0]: domains: each domain has at least one candidate"),
        ('name = "small"', "", "name: is missing"),
        (
            'kind = "npu"',
            'kind = "tpu"',
            "processors[1].kind: Input should be 'cpu', 'gpu' or 'npu', got 'tpu'",
        ),
        ('host = "L"', 'host = "B"', "processors[1].host: must be a cpu of ['L'], got 'B'"),
        ('host = "L"', "", "processors[1]: host: a gpu or npu names the processor that feeds it"),
        (
            'weights = "per_channel"',
            'weights = "per_channel"\ncore_mask = 9',
            "processors[1].core_mask: Input should be less than or equal to 7, got 9",
        ),
        ('weights = "per_channel"', "", "processors[1]: weights: an npu has 'per_channel' or 'per_tensor'"),
        ('letter = "N"', 'letter = "L"', "processors[1].letter: two processors have it, got 'L'"),
        (
            'letter = "N"',
            'letter = "n"',
            "processors[1].letter: String should match pattern '^[A-Z]$', got 'n'",
        ),
        ('name = "small"', 'name = "small', "Illegal character"),
    ],
)
def test_errors_name_file_key_and_value(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in SMALL
    path = write(tmp_path, SMALL.replace(old, new, 1))
    with pytest.raises(BoardError) as error:
        load_board(path)
    assert str(path) in str(error.value)
    assert message in str(error.value)


def test_unknown_or_unreadable_board(tmp_path: Path) -> None:
    with pytest.raises(BoardError, match=r"no 'rk9999' in .*boards: expected a path or one of host, rk3399pro, rk3588"):
        load_board("rk9999")
    with pytest.raises(BoardError, match=r"nowhere\.toml: No such file or directory"):
        load_board(tmp_path / "nowhere.toml")
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    with pytest.raises(BoardError, match=r"latin\.toml: .*codec can't decode"):
        load_board(tmp_path / "latin.toml")


def test_find_domain_takes_the_first_candidate_that_sets_a_frequency(tmp_path: Path) -> None:
    candidates = ["sys/a.gpu", "sys/b.gpu", "sys/*.gpu"]
    assert find_domain(tmp_path, candidates) is None
    (tmp_path / "sys/a.gpu").mkdir(parents=True)  # a device, but not one with a governor
    add(tmp_path / "sys/z.gpu", governor="simple_ondemand")
    assert find_domain(tmp_path, candidates) == "sys/z.gpu"
    add(tmp_path / "sys/b.gpu", scaling_governor="schedutil")
    assert find_domain(tmp_path, candidates) == "sys/b.gpu"


def test_native_board_sets_every_cluster_of_a_processor(tmp_path: Path) -> None:
    board = load_board(write(tmp_path, SMALL))
    policy, device = tmp_path / "sys/policy0", tmp_path / "sys/devfreq/ff00.cpu"
    add(policy, scaling_governor="schedutil", scaling_setspeed="<unsupported>")
    add(device, governor="performance")
    add(device / "userspace", set_freq="undefined")
    governor = piqi_native.sysfs_governor(board.to_native(tmp_path), str(tmp_path))
    assert governor.warnings == []
    assert governor.request(0, 1)
    assert line(policy / "scaling_setspeed") == "800000"
    assert line(device / "userspace/set_freq") == "800000000"
    governor.restore()
    assert line(policy / "scaling_governor") == "schedutil"
    assert line(device / "governor") == "performance"


def test_governor_says_what_is_missing(tmp_path: Path) -> None:
    board = load_board(write(tmp_path, SMALL))
    add(tmp_path / "sys/policy0", scaling_governor="schedutil", scaling_setspeed="0")
    governor = piqi_native.sysfs_governor(board.to_native(tmp_path), str(tmp_path))
    assert not governor.controls(0)
    assert governor.warnings == [f"L: {tmp_path}/sys/missing/governor: open: No such file or directory"]


def test_missing_backends_are_emulated_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    boards._warn_once.cache_clear()
    board = load_board(write(tmp_path, SMALL))
    with caplog.at_level(logging.WARNING):
        emulated = board.to_native()
        board.to_native()
    assert [p.backend for p in emulated.processors] == ["xnnpack", "xnnpack"]
    assert [record.getMessage() for record in caplog.records] == [
        "board small: armcl_neon, rknn2 not available here: L, N emulated by xnnpack"
    ]
    caplog.clear()
    native = board.to_native(backends=["xnnpack", "armcl_neon", "rknn2"])
    assert [p.backend for p in native.processors] == ["armcl_neon", "rknn2"]
    assert not caplog.records


def test_board_is_a_value() -> None:
    board = load_board("rk3588")
    assert Board.model_validate(board.model_dump()) == board
