"""The credit card application data: made from a seed, stored, and checked before every use.

The rows are synthetic. Applicants are drawn in two groups that differ in income and housing;
an application is approved if a score of income, housing and group, with noise, passes a
line. The group term is what makes the history unfair: at the same income and housing, group 1
was approved more often. The constants below are calibrated so that a tree of depth 3 reproduces
the published figures of this example (accuracy, fairness gaps, leaves; see the tests).

Only integer arithmetic on the raw 64-bit stream of PCG64 is used, whose values NumPy guarantees
to stay the same, so that every machine makes the same rows.

Commands:
    python -m ccapproval.data generate --out FILE.csv.xz   makes the rows and their manifest
    python -m ccapproval.data verify                       makes them again and compares
    python -m ccapproval.data describe FILE.csv            writes the manifest of any other table
"""

from __future__ import annotations

import argparse
import io
import lzma
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ccapproval.common import (
    InputError,
    command_line,
    read_bytes,
    read_json_object,
    sha256_hex,
    to_json,
    write_atomically,
)

DEFAULT_FILE = Path(__file__).resolve().parent.parent / "data" / "credit_card_approval.csv.xz"

ROWS = 500_000
SEED = 15
COLUMNS = ("Num_Children", "Group", "Income", "Own_Car", "Own_Housing", "Target")

# Shares are in 1/10,000, money in whole currency units a year. Pairs are (group 0, group 1).
GROUP_1_SHARE = 5_003
INCOME_MEAN = (65_860, 80_390)
INCOME_DEVIATION = (21_590, 31_380)
INCOME_FLOOR = 8_000
HOUSING_SHARE = (3_018, 5_189)
CAR_SHARE = (4_600, 5_400)
CHILDREN_SHARES = (3_900, 3_100, 2_000, 800, 200)

APPROVAL_LINE = 88_800
HOUSING_BONUS = 7_550
GROUP_BONUS = 10_500
# Unrecorded circumstances: they help further than they harm.
NOISE_DEVIATION_HARM = 2_700
NOISE_DEVIATION_HELP = 4_050

# LZMA2 without the defaults that depend on the version or the number of cores.
XZ_FILTERS = [
    {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 23, "lc": 4}
]


def uniform(raw: np.ndarray) -> np.ndarray:
    """Whole numbers from 0 to 9,999 from 64-bit draws.

    The upper 32 bits are scaled by multiplication; the bias is below 1 in 400,000.
    """
    return ((raw >> np.uint64(32)) * np.uint64(10_000) >> np.uint64(32)).astype(np.int64)


def bell(raw: np.ndarray) -> np.ndarray:
    """Draws of mean 0 and standard deviation 65,536 that follow the normal law closely.

    Each is the sum of twelve uniform 16-bit integers minus its mean (Irwin-Hall distribution);
    the variance of one is (2^32 - 1) / 12. The greatest deviation is six standard deviations.

    Args:
        raw: uint64, shape (3, rows).

    Returns:
        int64, shape (rows,).
    """
    words = [
        (draw >> np.uint64(shift)) & np.uint64(0xFFFF) for draw in raw for shift in (0, 16, 32, 48)
    ]
    return np.sum(words, axis=0, dtype=np.uint64).astype(np.int64) - 6 * 0xFFFF


def make(rows: int = ROWS, seed: int = SEED) -> pd.DataFrame:
    """Makes the table.

    Args:
        rows: how many applications.
        seed: of the PCG64 generator.

    Returns:
        int64 columns `COLUMNS`; Income in currency units a year, the flags and Target 0 or 1.
    """
    raw = np.random.PCG64(seed).random_raw(rows * 10).reshape(10, rows)
    group = (uniform(raw[0]) < GROUP_1_SHARE).astype(np.int64)

    deviation = np.take(INCOME_DEVIATION, group)
    income = np.take(INCOME_MEAN, group) + (bell(raw[1:4]) * deviation >> 16)
    # What falls below the floor is reflected, so that no spike forms there.
    income = INCOME_FLOOR + np.abs(income - INCOME_FLOOR)

    housing = (uniform(raw[4]) < np.take(HOUSING_SHARE, group)).astype(np.int64)
    car = (uniform(raw[5]) < np.take(CAR_SHARE, group)).astype(np.int64)
    children = np.searchsorted(np.cumsum(CHILDREN_SHARES), uniform(raw[6]), side="right")

    luck = bell(raw[7:10])
    noise = luck * np.where(luck < 0, NOISE_DEVIATION_HARM, NOISE_DEVIATION_HELP) >> 16
    score = income + HOUSING_BONUS * housing + GROUP_BONUS * group + noise
    target = (score > APPROVAL_LINE).astype(np.int64)
    values = (children, group, income, car, housing, target)
    return pd.DataFrame(dict(zip(COLUMNS, values, strict=True)))


def to_csv(table: pd.DataFrame) -> bytes:
    r"""The canonical CSV of a table: header, comma, `\n`, no index."""
    return table.to_csv(index=False, lineterminator="\n").encode()


def manifest_path(file: Path) -> Path:
    """Where the manifest of a data file lies: beside it, `.json` in place of `.csv[.xz]`."""
    name = file.name.removesuffix(".xz").removesuffix(".csv")
    return file.with_name(name + ".json")


def manifest_of(file: Path, stored: bytes, csv: bytes) -> dict[str, Any]:
    """What is recorded of a data file; digests are SHA-256 in hexadecimal."""
    table = pd.read_csv(io.BytesIO(csv))
    return {
        "file": file.name,
        "rows": len(table),
        "columns": list(table.columns),
        "sha256": sha256_hex(stored),
        "csv_sha256": sha256_hex(csv),
    }


def unpack(file: Path, stored: bytes) -> bytes:
    """The CSV in a data file, which is plain or compressed by its suffix `.xz`."""
    if file.suffix != ".xz":
        return stored
    try:
        return lzma.decompress(stored)
    except lzma.LZMAError as error:
        raise InputError(f"{file} is not an xz file: {error}") from error


def read_checked(file: Path) -> tuple[bytes, dict[str, Any]]:
    """The content of a data file and its manifest, after comparing their digests.

    Raises:
        InputError: file or manifest is missing, or the digests differ.
    """
    stored = read_bytes(file)
    if not manifest_path(file).exists():
        raise InputError(
            f"{manifest_path(file)} is missing: "
            f"make it with python -m ccapproval.data describe {file}"
        )
    manifest = read_json_object(manifest_path(file))
    found = sha256_hex(stored)
    if found != manifest.get("sha256"):
        raise InputError(
            f"{file} has SHA-256 {found}, {manifest_path(file).name} records "
            f"{manifest.get('sha256')}: restore the file, or if the change is meant, record it "
            f"with python -m ccapproval.data describe {file}"
        )
    return stored, manifest


def load(file: str | Path = DEFAULT_FILE) -> pd.DataFrame:
    """Reads a data file after checking its digest.

    Args:
        file: a `.csv` or `.csv.xz` with its manifest beside it.

    Raises:
        InputError: see `read_checked`.
    """
    path = Path(file)
    stored, _ = read_checked(path)
    return pd.read_csv(io.BytesIO(unpack(path, stored)))


def generate(file: Path) -> dict[str, Any]:
    """Makes the table and writes it with its manifest, which is returned."""
    if not file.name.endswith(".csv.xz"):
        raise InputError(f"{file}: the name must end in .csv.xz")
    csv = to_csv(make())
    stored = lzma.compress(csv, format=lzma.FORMAT_XZ, filters=XZ_FILTERS)
    manifest = manifest_of(file, stored, csv)
    write_atomically(file, stored)
    write_atomically(manifest_path(file), to_json(manifest))
    return manifest


def verify(file: Path = DEFAULT_FILE) -> dict[str, Any]:
    """Makes the table again and compares it with the stored one; returns the manifest.

    Raises:
        InputError: the stored file, its manifest and the generator do not agree.
    """
    stored, manifest = read_checked(file)
    csv = unpack(file, stored)
    if manifest != manifest_of(file, stored, csv):
        raise InputError(f"{manifest_path(file)} does not describe {file}: generate both again")
    if to_csv(make()) != csv:
        raise InputError(
            f"{file} is not what the generator makes: generate it again, or undo the change"
        )
    return manifest


def describe(file: Path) -> dict[str, Any]:
    """Writes the manifest of a table from elsewhere and returns it."""
    stored = read_bytes(file)
    manifest = manifest_of(file, stored, unpack(file, stored))
    write_atomically(manifest_path(file), to_json(manifest))
    return manifest


def main() -> int:
    """The command; 0 when done, 1 when files are missing or do not agree."""
    parser = argparse.ArgumentParser(prog="python -m ccapproval.data")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("generate", "make the table"), ("verify", "make it again and compare")):
        command = commands.add_parser(name, help=text)
        command.add_argument("--out" if name == "generate" else "--file", dest="file", type=Path)
        command.set_defaults(file=DEFAULT_FILE)
    command = commands.add_parser("describe", help="write the manifest of any table")
    command.add_argument("file", type=Path)
    arguments = parser.parse_args()
    action = {"generate": generate, "verify": verify, "describe": describe}[arguments.command]

    def run() -> None:
        manifest = action(arguments.file)
        print(f"{arguments.file}: {manifest['rows']} rows, sha256:{manifest['sha256']}")

    return command_line(run)


if __name__ == "__main__":
    sys.exit(main())
