"""The five floors: a file imports only from its own floor or lower ones."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ("utils", "datasets_src", "models_src", "evaluation", "main")
FILES = [
    ROOT / "main.py",
    *(path for floor in FLOORS[:-1] for path in (ROOT / floor).rglob("*.py")),
]


def imported_floors(path: Path) -> set[str]:
    """Return the floors whose modules a file imports, at its top or inside functions."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            modules.add(node.module)
    return {module.split(".")[0] for module in modules} & set(FLOORS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_and_only_main_prints(path):
    own = FLOORS.index(path.relative_to(ROOT).parts[0].removesuffix(".py"))
    above = {floor for floor in imported_floors(path) if FLOORS.index(floor) > own}
    assert not above
    names = {node.id for node in ast.walk(ast.parse(path.read_text())) if type(node) is ast.Name}
    assert path.name == "main.py" or "print" not in names
