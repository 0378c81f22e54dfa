"""Copies a file, or what is in a folder, to the artifacts, by the action's rules."""

import os
import shutil
import sys
from pathlib import Path

name, source, if_none = sys.argv[1:]
if not name or "/" in name:
    sys.exit(f"an artifact cannot be named {name!r}")
if set(source) & set("*?[!\n"):
    sys.exit(f"this stand-in does not understand the path {source!r}")
source = Path(source)
files = [source] if source.is_file() else []
for folder, folders, names in os.walk(source, followlinks=True):
    # Hidden files stay behind, links are followed.
    folders[:] = [each for each in folders if not each.startswith(".")]
    files += [Path(folder, each) for each in names if not each.startswith(".")]
if not files:
    print(f"no files were found with the path {source}")
    sys.exit(if_none == "error")
artifact = Path(os.environ["STAND_IN_ARTIFACTS"], name)
if artifact.exists():
    sys.exit(f"the run already has an artifact {name}")
for file in files:
    target = artifact / (file.name if source.is_file() else file.relative_to(source))
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, target)
print(f"{len(files)} files uploaded as {name}")
