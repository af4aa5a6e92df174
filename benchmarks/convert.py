"""Write a result file of the older form, one JSON document (schema 1), as JSON Lines beside it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.records import SCHEMA, load


def converted(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of a document, with all that is in it.

    Raises:
        ValueError: it is not a result file of schema 1.
    """
    if content.get("schema") != 1:
        raise ValueError("not a result file of schema 1")
    lines = [{"schema": SCHEMA, "machine": content["machine"], "settings": content["settings"]}]
    lines += content["cases"]
    for kind in ("skipped", "failed"):
        lines += [{"name": name, kind: why} for name, why in content[kind].items()]
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path, metavar="OLD.json")
    old: Path = parser.parse_args(arguments).old
    new = old.with_suffix(".jsonl")
    try:
        if new == old:
            raise ValueError("it is JSON Lines already")
        lines = converted(json.loads(old.read_text(encoding="utf-8")))
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        new.write_text(text, encoding="utf-8")
        load(new)
    except (OSError, ValueError) as error:
        print(f"error: {old}: {error}", file=sys.stderr)
        return 1
    print(f"wrote {new}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
