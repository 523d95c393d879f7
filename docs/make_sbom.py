"""List what is installed: a bill of materials in dist/sbom.json, licences in docs/dependencies.md.

The bill follows CycloneDX 1.6. Everything comes from the metadata of installed distributions; needs
the standard library alone.
"""

import json
import re
import sys
import tomllib
import uuid
from collections.abc import Collection, Iterable, Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
_BEGIN, _END = "<!-- by docs/make_sbom.py -->", "<!-- end -->"
_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9._-]+)\s*(?:\[([^\]]*)\])?")


def main(out: Path) -> None:
    """Write both."""
    installed = find_installed()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(bill(installed), indent=1) + "\n", encoding="utf-8")
    path = ROOT / "docs" / "dependencies.md"
    before, _, rest = path.read_text(encoding="utf-8").partition(_BEGIN)
    _, _, after = rest.partition(_END)
    text = f"{before}{_BEGIN}\n\n{licence_table(installed)}\n\n{_END}{after}"
    path.write_text(text, encoding="utf-8")


def find_installed() -> dict[str, Distribution]:
    """Every distribution but this one, by its normalised name."""
    found = {normalised(one.name): one for one in distributions()}
    found.pop(PROJECT["name"], None)
    return found


def bill(installed: dict[str, Distribution]) -> dict[str, Any]:
    """CycloneDX document of all installed distributions, with what each of them needs."""
    extras = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *(line for extra in extras.values() for line in extra)]
    name = PROJECT["name"]
    needs = {name: sorted({one for one, _ in required(lines) if one in installed})}
    needs |= {key: sorted({n for n, _ in needed(installed, key, ())}) for key in installed}
    components = [
        {
            "type": "library",
            "bom-ref": key,
            "name": one.name,
            "version": one.version,
            "purl": f"pkg:pypi/{key}@{one.version.replace('+', '%2B')}",
            "licenses": [{"license": {"name": licence(one)}}],
        }
        for key, one in sorted(installed.items())
    ]
    version = re.findall('__version__ = "(.*)"', (ROOT / name / "__init__.py").read_text())[0]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": name,
                "name": name,
                "version": version,
                "licenses": [{"license": {"id": PROJECT["license"]}}],
            }
        },
        "components": components,
        "dependencies": [{"ref": key, "dependsOn": on} for key, on in sorted(needs.items())],
    }
    # The same content has the same number.
    number = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(document, sort_keys=True))
    return document | {"serialNumber": f"urn:uuid:{number}"}


def licence_table(installed: dict[str, Distribution]) -> str:
    """Markdown table of what users install: with activemri alone, and with activemri[all]."""
    extras = PROJECT["optional-dependencies"]
    core = closure(installed, PROJECT["dependencies"])
    users = [line for name, own in extras.items() if name not in ("dev", "all") for line in own]
    wanted = core | closure(installed, users)
    lines = ["| distribution | version | licence | comes with |", "| --- | --- | --- | --- |"]
    for key in sorted(wanted):
        one, comes = installed[key], "activemri" if key in core else "extras"
        version = one.version.partition("+")[0]
        lines.append(f"| {one.name} | {version} | {licence(one)} | {comes} |")
    return "\n".join(lines)


def closure(installed: dict[str, Distribution], lines: Iterable[str]) -> set[str]:
    """Installed distributions that some requirements need, directly or not."""
    waiting, found = list(required(lines)), set[tuple[str, tuple[str, ...]]]()
    while waiting:
        one = waiting.pop()
        if one not in found and one[0] in installed:
            found.add(one)
            waiting += needed(installed, *one)
    return {name for name, _ in found}


def needed(
    installed: dict[str, Distribution], name: str, extras: Collection[str]
) -> list[tuple[str, tuple[str, ...]]]:
    """Installed distributions that one needs with some extras, and their own extras."""
    lines = installed[name].requires or []
    return [one for one in required(lines, extras) if one[0] in installed]


def required(
    lines: Iterable[str], extras: Collection[str] = ()
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Names and extras of requirements; those of other extras are left out.

    Other marks, such as that of the system, are not looked at: only what is installed counts.
    """
    for line in lines:
        requirement, _, marks = line.partition(";")
        asked = re.findall(r"""extra\s*==\s*['"]([^'"]+)""", marks)
        found = _REQUIREMENT.match(requirement)
        if found and (not asked or set(asked) & set(extras)):
            name, own = found.groups()
            yield normalised(name), tuple(part.strip() for part in (own or "").split(",") if part)


def licence(one: Distribution) -> str:
    """As the distribution states it: an expression, else a short name, else its classifiers."""
    stated, licences, classifiers = (
        one.metadata.get_all(field) or []
        for field in ("License-Expression", "License", "Classifier")
    )
    short = [text.strip() for text in licences if len(text) < 40 and "\n" not in text.strip()]
    names = [c.rpartition(" :: ")[2] for c in classifiers if c.startswith("License ::")]
    return next(filter(None, [*stated, *short]), None) or ", ".join(names) or "not stated"


def normalised(name: str) -> str:
    """A distribution's name, in the one spelling that indices use."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "dist" / "sbom.json")
