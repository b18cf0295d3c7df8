import json


def test_names_and_what_each_says_of_itself(jaxprop):
    ran = jaxprop("configs")
    assert ran.out == "digits\n  jaxprop train digits\n  9 s on 2 cores: accuracy 0.99\nlm\n  jaxprop train lm\n"
    assert ran.code == 0


def test_the_packaged_folder_of_a_checkout_is_the_one_beside_the_package():
    from jaxprop.config.locate import packaged_folder

    assert (packaged_folder() / "schema.json").is_file()


def test_json(jaxprop, package):
    found = json.loads(jaxprop("configs", "--json").out)
    assert (found["command"], found["run"]) == ("configs", None)
    assert found["configs"][1] == {"name": "lm", "path": str(package / "lm.yaml"), "about": ["jaxprop train lm"]}
