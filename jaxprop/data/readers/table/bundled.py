"""Tables inside the installed scikit-learn, as CSV text with a header: real data everywhere, without a download."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from jaxprop.config.schema.data import BUNDLED as SCHEME
from jaxprop.errors import DataError, one_of

_MEASURED = (
    "radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity", "concave points", "symmetry",
    "fractal dimension",
)  # fmt: skip
_OF_CELLS = [f"{how} {what}" for how in ("mean", "error of", "worst") for what in _MEASURED]
_OF_PATIENTS = ["age", "sex", "bmi", "blood pressure", "s1", "s2", "s3", "s4", "s5", "s6"]
_OF_IRISES = ["sepal length", "sepal width", "petal length", "petal width"]
_OF_WINES = [
    "alcohol", "malic acid", "ash", "alcalinity of ash", "magnesium", "total phenols", "flavanoids",
    "nonflavanoid phenols", "proanthocyanins", "color intensity", "hue", "od280/od315", "proline",
]  # fmt: skip


def read(name: str) -> bytes:
    """Returns the CSV text of a table that scikit-learn ships.

    The files are read without importing scikit-learn, which would take seconds.

    Args:
      name: `sklearn:breast_cancer.csv`, `sklearn:diabetes.csv`, `sklearn:iris.csv` or `sklearn:wine.csv`.

    Raises:
      DataError: there is no such table, or scikit-learn is not installed, or its files have changed.

    Example:
      >>> read("sklearn:iris.csv").splitlines()[:2]
      [b'sepal length,sepal width,petal length,petal width,species', b'5.1,3.5,1.4,0.2,setosa']
    """
    known = {f"{SCHEME}{table}.csv": make for table, make in TABLES.items()}
    if name not in known:
        raise DataError(one_of(name, known, "table"))
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError(f"{name} is read from scikit-learn, which is not installed; pip install scikit-learn")
    try:
        return known[name](Path(package.origin).parent / "datasets" / "data").encode()
    except (OSError, ValueError, IndexError) as error:
        raise DataError(
            f"{name}: the installed scikit-learn does not hold this table as expected ({type(error).__name__}); "
            "give a CSV file of your own"
        ) from error


def _classes(file: str, columns: list[str], target: str) -> Callable[[Path], str]:
    """A file whose first line holds counts and the names of the classes, and whose last column is the class."""

    def make(folder: Path) -> str:
        first, *rows = (folder / file).read_text(encoding="utf-8").split()
        names = first.split(",")[2:]
        split = [row.rsplit(",", 1) for row in rows]
        lines = [f"{values},{names[int(label)]}" for values, label in split]
        return "\n".join([",".join([*columns, target]), *lines]) + "\n"

    return make


def _diabetes(folder: Path) -> str:
    with gzip.open(folder / "diabetes_data_raw.csv.gz", "rt") as file:
        rows = [line.split() for line in file]
    with gzip.open(folder / "diabetes_target.csv.gz", "rt") as file:
        targets = [f"{float(line):g}" for line in file]
    lines = [",".join([*row, target]) for row, target in zip(rows, targets, strict=True)]
    return "\n".join([",".join([*_OF_PATIENTS, "progression"]), *lines]) + "\n"


TABLES: dict[str, Callable[[Path], str]] = {
    "breast_cancer": _classes("breast_cancer.csv", _OF_CELLS, "diagnosis"),
    "diabetes": _diabetes,
    "iris": _classes("iris.csv", _OF_IRISES, "species"),
    "wine": _classes("wine_data.csv", _OF_WINES, "cultivar"),
}
