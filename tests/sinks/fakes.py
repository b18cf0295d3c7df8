"""Modules in the place of the trackers' own, which write down what they are called with."""

import enum
import types


class Level(enum.Enum):
    INFO = "INFO"
    WARN = "WARN"
    ERROR = "ERROR"


class MlflowException(Exception):
    def __init__(self, message, error_code="INTERNAL_ERROR"):
        super().__init__(message)
        self.error_code = error_code


def module(name, **contents):
    made = types.ModuleType(name)
    vars(made).update(contents)
    return made


def wandb(seen, *, logged_in=True, fail_at=None):
    """W&B: runs whose calls are put into `seen`."""

    class Run:
        def __init__(self, given):
            self.id, self.dir, self.url = given["id"] or "abc", f"{given['dir']}/wandb/run/files", "https://w/abc"
            self.summary = {}

        def define_metric(self, name, **given):
            seen.append(("define", name, given))

        def log(self, values):
            if fail_at is not None and values["step"] >= fail_at:
                raise ConnectionError("the service is gone")
            seen.append(("log", values))

        def alert(self, title, text, level, wait_duration):
            seen.append(("alert", title, text, level.name))

        def finish(self, exit_code):
            seen.append(("finish", self.summary.get("status"), exit_code))

    def init(**given):
        seen.append(("init", given))
        return Run(given)

    def login(**given):
        seen.append(("login", given))
        return logged_in

    class Settings(dict):
        model_fields = ("silent", "console")

    return {"wandb": module("wandb", init=init, login=login, Settings=Settings, AlertLevel=Level)}


def trackio(seen, *, fail_at=None):
    """Trackio, which prints."""

    class Run:
        def __init__(self, name):
            self.name = name

        def log(self, values, step):
            if fail_at is not None and step >= fail_at:
                raise ConnectionError("the disk is gone")
            seen.append(("log", step, values))

        def alert(self, title, text, level, step):
            print("an alert")
            seen.append(("alert", title, text, level.name))

        def finish(self):
            print("finished")
            seen.append(("finish",))

    def init(**given):
        print("begun")
        seen.append(("init", given))
        return Run(given["name"])

    current = types.SimpleNamespace(set=lambda value: None)
    variables = types.SimpleNamespace(current_run=current)
    return {"trackio": module("trackio", init=init, context_vars=variables, AlertLevel=Level)}


def mlflow(seen, *, runs=()):
    """MLflow with a store that knows `runs`."""

    class Client:
        def __init__(self, tracking_uri):
            seen.append(("client", tracking_uri))

        def search_experiments(self, max_results):
            return []

        def get_experiment_by_name(self, name):
            return None

        def create_experiment(self, name):
            return f"of {name}"

        def create_run(self, experiment, run_name):
            seen.append(("run", experiment, run_name))
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id="f00"))

        def update_run(self, run_id, status):
            if run_id not in runs:
                raise MlflowException("no such run", "RESOURCE_DOES_NOT_EXIST")
            seen.append(("update", run_id, status))

        def log_batch(self, run_id, **given):
            seen.extend((name, *item) for name, items in given.items() for item in items)

        def set_tag(self, run_id, key, value):
            seen.append(("tag", key, value))

        def log_dict(self, run_id, contents, file):
            seen.append(("file", file, contents))

        def set_terminated(self, run_id, status):
            seen.append(("end", run_id, status))

    entities = module("mlflow.entities", **{name: lambda *given: given for name in ("Metric", "Param", "RunTag")})
    exceptions = module("mlflow.exceptions", MlflowException=MlflowException)
    uri = "sqlite:///here/mlflow.db"
    top = module("mlflow", MlflowClient=Client, get_tracking_uri=lambda: uri, entities=entities, exceptions=exceptions)
    return {"mlflow": top, "mlflow.entities": entities, "mlflow.exceptions": exceptions}


KINDS = {"wandb": wandb, "trackio": trackio, "mlflow": mlflow}
