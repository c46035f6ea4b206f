"""Archives that are broken, hostile or cut short, and unpacking that is killed: nothing half-made, nothing outside."""

from __future__ import annotations

import gzip
import io
import os
import signal
import struct
import subprocess
import sys
import tarfile
import time
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench import archives
from bench.archives import ArchiveError, unpack
from bench.errors import EXIT_ENVIRONMENT, DiskFull, EnvironmentFault

MEBIBYTE = 1 << 20
FILES = {
    "set/a.txt": b"first",
    "set/deep/er/b.bin": np.random.default_rng(0).bytes(3000),
    "set/empty": b"",
    "set/ümlaut and space.txt": b"third",
}


def member(name: str, content: bytes = b"", **attributes: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, content


def make_tar(path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return path


def make_zip(path: Path, files: dict[str, bytes] | list[tuple[str, bytes]], **options: int) -> Path:
    with zipfile.ZipFile(path, "w", options.pop("method", zipfile.ZIP_DEFLATED)) as archive:
        for name, content in files.items() if isinstance(files, dict) else files:
            info = zipfile.ZipInfo(name)
            info.compress_type = archive.compression
            for key, value in options.items():
                setattr(info, key, value)
            archive.writestr(info, content)
    return path


def zipped(path: Path) -> Path:
    return make_zip(path, FILES)


def stored(path: Path) -> Path:
    return make_zip(path, FILES, method=zipfile.ZIP_STORED)


def tarred(path: Path) -> Path:
    return make_tar(path, *(member(name, content) for name, content in FILES.items()))


def gzipped(path: Path) -> Path:
    return make_tar(path, *(member(name, content) for name, content in FILES.items()), mode="w:gz")


def old_tarred(path: Path) -> Path:
    """A tar of before POSIX: no magic, no prefix field, and no end mark, as some programs write it."""
    content = b"first"
    header = bytearray(b"set/a.txt".ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2)
    header += b"%011o\0" % len(content) + b"%011o\0" % 0 + b" " * 8 + b"0"
    header = header.ljust(512, b"\0")
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(bytes(header) + content.ljust(512, b"\0"))
    return path


FORMATS = (zipped, stored, tarred, gzipped)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in/archive"  # no suffix: the cache has none


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out/data"


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(archive: Path, place: Path, *parts: str, max_bytes: int = MEBIBYTE) -> None:
    """It ends with one line that holds `parts`, and nothing is left at the destination or beside it."""
    before = sorted(archive.parent.parent.rglob("*"))
    with pytest.raises(ArchiveError) as caught:
        unpack(archive, place, max_bytes=max_bytes)
    line = str(caught.value)
    assert "\n" not in line and archive.name in line
    for part in parts:
        assert part in line
    assert caught.value.exit_code == EXIT_ENVIRONMENT
    assert sorted(archive.parent.parent.rglob("*")) == before


@pytest.mark.parametrize("make", FORMATS)
def test_whole_archives(make: Callable[[Path], Path], archive: Path, place: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    files = unpack(make(archive), place, max_bytes=MEBIBYTE, report=lambda *r: seen.append(r), name="the set")
    assert contents(place) == FILES
    assert [file.relative_to(place).as_posix() for file in files] == list(FILES)
    total = sum(map(len, FILES.values()))
    assert seen[-1] == (total, total, "unpacking the set")
    assert [report[0] for report in seen] == sorted(report[0] for report in seen)
    assert [path.name for path in place.parent.iterdir()] == ["data"]


def test_an_old_tar_without_end_mark(archive: Path, place: Path) -> None:
    unpack(old_tarred(archive), place, max_bytes=MEBIBYTE)
    assert contents(place) == {"set/a.txt": b"first"}


def test_folders_that_are_named_twice_and_dots(archive: Path, place: Path) -> None:
    folder = {"type": tarfile.DIRTYPE}
    make_tar(
        archive, member("./", **folder), member("./a", **folder), member("./a/", **folder), member("./a//b")
    )
    unpack(archive, place, max_bytes=MEBIBYTE)
    assert contents(place) == {"a/b": b""}


def test_an_empty_folder_of_the_archive_is_made(archive: Path, place: Path) -> None:
    make_zip(archive, {"a": b"1", "hollow/": b""})
    unpack(archive, place, max_bytes=MEBIBYTE)
    assert (place / "hollow").is_dir()


def test_files_get_the_permissions_of_new_files(archive: Path, place: Path) -> None:
    make_tar(archive, member("run", b"1", mode=0o6777, uid=12345, mtime=0), member("shut", b"2", mode=0))
    before, old = time.time(), os.umask(0o027)
    try:
        unpack(archive, place, max_bytes=MEBIBYTE)
    finally:
        os.umask(old)
    for name in ("run", "shut"):
        status = (place / name).stat()
        assert status.st_mode & 0o7777 == 0o640 and status.st_uid == os.getuid()
        assert status.st_mtime > before - 5
    assert place.stat().st_mode & 0o7777 == 0o750


def test_only_what_is_wanted(archive: Path, place: Path) -> None:
    files = unpack(gzipped(archive), place, max_bytes=MEBIBYTE, keep=lambda path: path.suffix == ".txt")
    assert contents(place) == {name: FILES[name] for name in FILES if name.endswith(".txt")}
    assert len(files) == 2


# ---- the destination -----------------------------------------------------------------------------


def test_a_folder_with_something_in_it_is_not_touched(archive: Path, place: Path) -> None:
    place.mkdir()
    (place / "mine.txt").write_text("mine")
    with pytest.raises(ArchiveError, match=r"data is not empty; give a new folder"):
        unpack(zipped(archive), place, max_bytes=MEBIBYTE)
    assert contents(place.parent) == {"data/mine.txt": b"mine"}
    with pytest.raises(ArchiveError, match="is no folder"):
        unpack(archive, place / "mine.txt", max_bytes=MEBIBYTE)


def test_an_empty_folder_and_a_link_to_one_are_filled(archive: Path, place: Path) -> None:
    place.mkdir()
    (place.parent / "link").symlink_to(place)
    unpack(zipped(archive), place.parent / "link", max_bytes=MEBIBYTE)
    assert contents(place) == FILES and (place.parent / "link").is_symlink()


def test_a_place_that_cannot_be_written_is_one_line(archive: Path, place: Path) -> None:
    (place.parent / "file").write_text("")
    with pytest.raises(EnvironmentFault, match=r"cannot write .*: make it writable, or name another folder$"):
        unpack(zipped(archive), place.parent / "file/data", max_bytes=MEBIBYTE)
    with pytest.raises(EnvironmentFault, match=r"cannot read .*absent \(No such file"):
        unpack(archive.with_name("absent"), place, max_bytes=MEBIBYTE)


def test_no_room_is_seen_before_the_first_byte(
    archive: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_zip(archive, {"zeros": bytes(3 * MEBIBYTE)})
    usage = archives.shutil.disk_usage(".")
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: usage._replace(free=2 * MEBIBYTE))
    with pytest.raises(DiskFull, match=r"archive needs 3 MiB in .*data and 2 are free"):
        unpack(archive, place, max_bytes=4 * MEBIBYTE)
    assert not list(place.parent.iterdir())


def test_a_full_disk_in_the_middle_leaves_nothing(
    archive: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(done: int, total: int, note: str) -> None:
        if done > 1000:
            raise OSError(28, "No space left on device")

    with pytest.raises(DiskFull, match=r"no space left where .*data"):
        unpack(zipped(archive), place, max_bytes=MEBIBYTE, report=full)
    assert not list(place.parent.iterdir())


# ---- what is no archive, or half of one ----------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\n <!DOCTYPE html><html><title>Log in</title></html>", "it is a web page, no archive"),
        (b"<HTML><body>404</body>", "it is a web page, no archive"),
        (b"", "it is no zip, tar or gzipped tar"),
        (b"Rar!\x1a\x07" + bytes(2000), "it is no zip, tar or gzipped tar"),
        (bytes(10240), "it holds no file"),
        # Without the time of day, which would name the test otherwise in each process that collects it.
        (gzip.compress(b"<!DOCTYPE html>", mtime=0), "damaged or cut short"),
        (b"PK\x05\x06" + bytes(18), "it holds no file"),
    ],
)
def test_what_is_no_archive(content: bytes, words: str, archive: Path, place: Path) -> None:
    archive.write_bytes(content)
    refused(archive, place, words)


@pytest.mark.parametrize("make", FORMATS)
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_cut_archives(make: Callable[[Path], Path], part: float, archive: Path, place: Path) -> None:
    whole = make(archive).read_bytes().rstrip(b"\0" if make is tarred else b"")
    archive.write_bytes(whole[: int(len(whole) * part)])
    refused(archive, place)


def test_a_tar_cut_at_every_block_is_refused_or_has_whole_files(archive: Path, place: Path) -> None:
    whole = tarred(archive).read_bytes()
    outcomes = set()
    for end in range(512, len(whole.rstrip(b"\0")), 512):
        archive.write_bytes(whole[:end])
        try:
            unpack(archive, place, max_bytes=MEBIBYTE)
        except ArchiveError:
            outcomes.add("refused")
            assert not list(place.parent.iterdir())
        else:
            outcomes.add("whole files")
            assert contents(place).items() <= FILES.items()
            archives.shutil.rmtree(place)
    assert outcomes == {"refused", "whole files"}


@pytest.mark.parametrize("make", FORMATS)
def test_any_flipped_byte_gives_the_files_or_one_line(
    make: Callable[[Path], Path], archive: Path, place: Path
) -> None:
    whole = make(archive).read_bytes()
    refusals = 0
    for where in np.random.default_rng(1).choice(len(whole), 60, replace=False):
        archive.write_bytes(whole[:where] + bytes([whole[where] ^ 0xFF]) + whole[where + 1 :])
        try:
            unpack(archive, place, max_bytes=MEBIBYTE)
        except ArchiveError as error:
            refusals += 1
            assert "\n" not in str(error)
        else:
            archives.shutil.rmtree(place)
        assert not list(place.parent.iterdir())
    assert refusals


@pytest.mark.parametrize("make", [zipped, stored, gzipped])
def test_damaged_content_is_found_by_its_checksum(
    make: Callable[[Path], Path], archive: Path, place: Path
) -> None:
    whole = make(archive).read_bytes()
    where = len(whole) // 2  # in the random bytes, which fill most of it
    archive.write_bytes(whole[:where] + bytes([whole[where] ^ 1]) + whole[where + 1 :])
    refused(archive, place, "damaged or cut short")


@pytest.mark.parametrize("make", [tarred, gzipped])
def test_a_damaged_header_is_not_taken_for_the_end(
    make: Callable[[Path], Path], archive: Path, place: Path
) -> None:
    content = bytearray(tarred(archive).read_bytes())
    content[1024 + 20] ^= 1  # in the second header
    archive.write_bytes(gzip.compress(content) if make is gzipped else content)
    refused(archive, place, "damaged or cut short (at byte 1024)")


def test_a_damaged_offset(archive: Path, place: Path) -> None:
    content = bytearray(zipped(archive).read_bytes())
    content[-6] += 9  # where the directory lies; all files then lie nine bytes earlier
    archive.write_bytes(content)
    refused(archive, place, "damaged or cut short")


# ---- what would do harm --------------------------------------------------------------------------

OUTSIDE = [
    "../evil",
    "a/../../evil",
    "/tmp/evil",
    "//evil",
    "..",
    "a/..",
    "C:/evil",
    "c:evil",
    "..\\evil",
    "a\\..\\..\\evil",
    "\\\\host\\evil",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_lead_out(name: str, archive: Path, place: Path) -> None:
    make_tar(archive, member("fine", b"1"), member(name, b"evil"))
    refused(archive, place, f"{name!r} in it leads out of the folder")
    make_zip(archive, {"fine": b"1", name: b"evil"})
    refused(archive, place, "leads out of the folder")


@pytest.mark.parametrize("name", ["long/" + "x" * 256, "ü" * 128])
def test_names_that_no_file_can_have(name: str, archive: Path, place: Path) -> None:
    make_zip(archive, {name: b"1"})
    refused(archive, place, "cannot be a file name")


def test_a_nul_in_a_name(archive: Path, place: Path) -> None:
    make_zip(archive, {"a.jpgX.exe": b"1"})
    archive.write_bytes(archive.read_bytes().replace(b"a.jpgX.exe", b"a.jpg\0.exe"))
    refused(archive, place, "cannot be a file name")


@pytest.mark.parametrize(
    ("hostile", "words"),
    [
        (
            [member("a", type=tarfile.SYMTYPE, linkname="/tmp"), member("a/evil", b"1")],
            "'a' is a link to '/tmp'",
        ),
        ([member("link", type=tarfile.SYMTYPE, linkname="fine")], "is a link"),
        (
            [member("hard", type=tarfile.LNKTYPE, linkname="../../etc/passwd")],
            "is a link to '../../etc/passwd'",
        ),
        ([member("hard", type=tarfile.LNKTYPE, linkname="fine")], "is a link to 'fine'"),
        ([member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)], "'null' is a device"),
        ([member("disk", type=tarfile.BLKTYPE)], "'disk' is a device"),
        ([member("pipe", type=tarfile.FIFOTYPE)], "'pipe' is a device"),
    ],
)
def test_links_and_devices(hostile: list, words: str, archive: Path, place: Path) -> None:
    make_tar(archive, member("fine", b"1"), *hostile)
    refused(archive, place, words)
    make_tar(archive, member("fine", b"1"), *hostile, mode="w:gz")
    refused(archive, place, words)


@pytest.mark.parametrize("kind", [0o120777, 0o020666, 0o010666])
def test_links_and_devices_in_a_zip(kind: int, archive: Path, place: Path) -> None:
    make_zip(archive, {"link": b"/etc/passwd"}, external_attr=kind << 16, create_system=3)
    refused(archive, place, "'link' is a link or device")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a/b", "a/b"], "'a/b' is in it twice"),
        (["a/b", "a/./b"], "is in it twice"),
        (["a", "a/b"], "'a' is in it twice"),
        (["a/b", "a"], "'a' is in it twice"),
        (["A.jpg", "a.JPG"], "'A.jpg' and 'a.JPG' in it are one name where case does not count"),
        (["Train/a", "train/b"], "'Train' and 'train' in it are one name"),
        ([unicodedata.normalize(form, "ü") for form in ("NFC", "NFD")], "are one name"),
    ],
)
def test_two_files_of_one_name(names: list[str], words: str, archive: Path, place: Path) -> None:
    make_tar(archive, *(member(name, b"1") for name in names))
    refused(archive, place, words)
    with pytest.warns(UserWarning) if names == ["a/b"] * 2 else archives.ExitStack():
        make_zip(archive, [(name, b"1") for name in names])
    refused(archive, place, words)


def test_an_encrypted_zip(archive: Path, place: Path) -> None:
    make_zip(archive, {"a": b"1"})
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag in the directory
    archive.write_bytes(content)
    refused(archive, place, "'a' is encrypted")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_cannot_be_unpacked_in_bounds(method: int, archive: Path, place: Path) -> None:
    make_zip(archive, {"a": bytes(MEBIBYTE)}, method=method)
    refused(archive, place, f"packed by method {method}, which is not supported")


# ---- bombs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [make_zip, lambda path, files: make_tar(path, member("a", files["a"]), mode="w:gz")]
)
def test_a_small_archive_of_much_content(make: Callable, archive: Path, place: Path) -> None:
    make(archive, {"a": bytes(8 * MEBIBYTE)})
    assert archive.stat().st_size < 20_000
    refused(archive, place, "unpacks to more than the 7 MiB that are expected", max_bytes=7 * MEBIBYTE)
    unpack(archive, place, max_bytes=8 * MEBIBYTE)


def test_many_small_files_add_up(archive: Path, place: Path) -> None:
    make_zip(archive, {str(number): bytes(1000) for number in range(100)})
    refused(archive, place, "unpacks to more than", max_bytes=99_999)


@pytest.mark.parametrize("claimed", [0, 10, 2**31])
def test_a_header_that_lies_about_the_size(claimed: int, archive: Path, place: Path) -> None:
    make_zip(archive, {"a": bytes(8 * MEBIBYTE)})
    content = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        where = content.index(signature) + offset
        content[where : where + 4] = struct.pack("<I", claimed)
    archive.write_bytes(content)
    written: list[int] = []
    with pytest.raises(ArchiveError):
        unpack(archive, place, max_bytes=2**32, report=lambda done, total, note: written.append(done))
    assert max(written, default=0) <= max(claimed, 8 * MEBIBYTE if claimed > 8 * MEBIBYTE else 0)
    assert not list(place.parent.iterdir())


def test_a_tar_whose_header_claims_a_terabyte(archive: Path, place: Path) -> None:
    info, _ = member("a")
    info.size = 2**40
    archive.write_bytes(info.tobuf() + bytes(2000))
    refused(archive, place, "unpacks to more than")
    with pytest.raises((ArchiveError, DiskFull)):
        unpack(archive, place, max_bytes=2**41)
    assert not list(place.parent.iterdir())


def test_endless_padding_behind_the_end(archive: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_PADDING", 4 * MEBIBYTE)
    whole = gzip.decompress(gzipped(archive).read_bytes())
    archive.write_bytes(gzip.compress(whole + bytes(8 * MEBIBYTE)))
    refused(archive, place, "its end lies far behind its last file")


def test_too_many_members(archive: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    refused(zipped(archive), place, "it holds more than 3 files")


# ---- properties ----------------------------------------------------------------------------------

PARTS = st.sampled_from(["..", ".", "", "a", "A", "b", "ü", "C:", "\\", "x" * 300, "\n", "~", "-rf", "con"])
NAMES = st.one_of(
    st.lists(PARTS, min_size=1, max_size=5).map("/".join),
    st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20),
)


@given(names=st.lists(NAMES, min_size=1, max_size=4), make=st.sampled_from(["tar", "zip"]))
@example(names=["../../escaped"], make="zip")
@example(names=["a", "a/../../b"], make="tar")
@settings(deadline=None, max_examples=150)
def test_no_name_is_written_outside(names: list[str], make: str, tmp_path_factory) -> None:
    home = tmp_path_factory.mktemp("home")
    archive, place = home / "archive", home / "middle/deeper/data"
    place.parent.mkdir(parents=True)
    if make == "tar":
        make_tar(archive, *(member(name, b"1") for name in names))
    else:
        try:
            make_zip(archive, [(name, b"1") for name in names])
        except (ValueError, UnicodeError):  # Python cannot even write it
            return
    before = set(home.rglob("*"))
    try:
        files = unpack(archive, place, max_bytes=MEBIBYTE)
    except ArchiveError as error:
        assert "\n" not in str(error)
        files = []
    made = set(home.rglob("*")) - before
    assert all(path == place or place in path.parents for path in made)
    assert set(files) == {path for path in made if path.is_file()}


# ---- killed --------------------------------------------------------------------------------------


def test_killed_in_the_middle_and_unpacked_again(archive: Path, place: Path) -> None:
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from bench.archives import unpack\n"
        "def report(done, total, note):\n"
        "    print(done, flush=True)\n"
        "    time.sleep(60 if done > 1000 else 0)\n"
        "unpack(Path(sys.argv[1]), Path(sys.argv[2]), max_bytes=1 << 20, report=report)\n"
    )
    tarred(archive)
    process = subprocess.Popen(
        [sys.executable, "-c", code, archive, place], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() and int(process.stdout.readline()) > 1000
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert [path.name for path in place.parent.iterdir()] == [".data.unpacking"]
    unpack(archive, place, max_bytes=MEBIBYTE)
    assert contents(place) == FILES
    assert [path.name for path in place.parent.iterdir()] == ["data"]


def test_an_interrupt_leaves_nothing(archive: Path, place: Path) -> None:
    def interrupt(done: int, total: int, note: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack(zipped(archive), place, max_bytes=MEBIBYTE, report=interrupt)
    assert not list(place.parent.iterdir())
