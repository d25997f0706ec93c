"""Unpack the first few images of every class from an archive of train/<class>/*.jpg and test/<class>/*.jpg."""

import argparse
import io
import lzma
import tarfile
from collections import Counter
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, required=True, help="images a class")
    parser.add_argument("--test", type=int, required=True, help="images a class")
    arguments = parser.parse_args()
    limits = {"train": arguments.train, "test": arguments.test}
    content = lzma.decompress(arguments.archive.read_bytes())
    # The archive has some text before its first header; a header has its magic word 257 bytes in.
    start = content.index(b"ustar") - 257
    taken: Counter[tuple[str, str]] = Counter()
    with tarfile.open(fileobj=io.BytesIO(content[start:])) as archive:
        for member in archive:
            split, _, rest = member.name.removeprefix("./").partition("/")
            name, _, file = rest.partition("/")
            if not member.isfile() or split not in limits or not file or taken[split, name] >= limits[split]:
                continue
            taken[split, name] += 1
            target = arguments.folder / split / name / file
            target.parent.mkdir(parents=True, exist_ok=True)
            source = archive.extractfile(member)
            assert source is not None
            target.write_bytes(source.read())
    print(f"{sum(taken.values())} images of {len(taken) // 2} classes")


if __name__ == "__main__":
    main()
