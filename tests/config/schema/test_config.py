from jaxprop.config.schema.config import Config


def test_the_top_level_keys_are_the_modules():
    keys = ["task", "data", "model", "lora", "optimizer", "gradient", "precision", "parallel", "health", "checkpoint"]
    keys += ["sinks", "run"]
    assert list(Config.model_fields) == keys
    assert [key for key in keys if Config.model_fields[key].is_required()] == [
        "task",
        "data",
        "model",
        "optimizer",
        "run",
    ]
