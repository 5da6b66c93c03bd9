"""The widget's front end beside a kernel that answers late, in another order, wrongly or never.

The kernel is the test: it sees the questions and gives the answers of a real Explorer, or others.
"""

import json

import pytest
from atlases import small_atlas, with_priors
from test_page import Explorer as Page
from test_page import slice_table

from cvae_utils.explorer import front
from cvae_utils.explorer.widget import GLUE, Explorer

#: As much of a widget's model as the front end asks for.
MODEL = """async ([source, values]) => {
  const heard = {};
  window.source = source;
  window.model = {values, questions: [],
    get: (name) => values[name],
    set: (changed) => Object.assign(values, changed),
    save_changes() {},
    on(names, act) { for (const name of names.split(" ")) (heard[name] ??= []).push(act); },
    send: (question) => model.questions.push(question),
    fire: (name, ...details) => { for (const act of heard[name] ?? []) act(...details); },
  };
  const url = URL.createObjectURL(new Blob([source], {type: "text/javascript"}));
  (await import(url)).default.render({model, el: document.body});
  window.explorer = document.body.explorer;
}"""
ED, ES = ({"name": f"patient001 {phase}", "z": [value] * 6, "crop": 120, "image": None}
          for phase, value in (("ED", 0.5), ("ES", -0.5)))
PATIENTS = {"patients": [{"name": "patient001", "group": "DCM", "slices": [
    {"name": "slice 1, ED and ES", "rows": [0, 1]}]}]}


class Kernel(Page):
    """The page, and what its kernel hears and says."""

    def __init__(self, tab, explorer):
        super().__init__(tab)
        self.explorer, self.number = explorer, {}

    def questions(self):
        return [question["what"] for question in self.tab.evaluate("model.questions")]

    def answer(self, what, answer=None):
        """Answer the first question of a kind, as a real kernel or otherwise."""
        asked = self.tab.evaluate("""what => model.questions.splice(
            model.questions.findIndex((one) => one.what === what), 1)[0]""", what)
        answer = answer or json.loads(json.dumps(self.explorer.answer(asked)))
        self.tab.evaluate("answer => model.fire('msg:custom', answer)",
                          {"number": asked["number"], **answer})

    def choose_run(self, number):
        self.tab.locator("[data-id=runs] label").nth(number).click()

    def set(self, **values):
        self.tab.evaluate("values => { model.set(values); for (const name of Object.keys(values)) "
                          "model.fire(`change:${name}`); }", values)


@pytest.fixture
def kernel(browser, request):
    """Of three runs, the last with three dimensions; values: what differs when it is displayed."""
    table = slice_table()
    explorer = Explorer([with_priors(small_atlas(table)), with_priors(small_atlas(table, name="b")),
                         small_atlas(table, latent_dim=3, name="c")], labels=lambda size: None)
    tab, complaints = browser.new_page(), []
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    values = {"data": explorer.data, "problem": "", "has_patients": True, "run": 0, "z": explorer.z}
    tab.evaluate(MODEL, [front.script() + GLUE, values | getattr(request, "param", {})])
    yield Kernel(tab, explorer)
    tab.close()
    assert not complaints


def test_run_that_is_chosen_twice_is_asked_for_once(kernel):
    for number in (1, 0, 1):
        kernel.choose_run(number)
    assert kernel.questions() == ["run"]
    kernel.answer("run")
    assert kernel.state["run"] == 1
    assert kernel.state["z"] == pytest.approx(kernel.explorer.atlases[1].group_mean(), abs=1e-4)


def test_the_last_choice_counts_in_whatever_order_answers_come(kernel):
    kernel.choose_run(1)
    kernel.choose_run(2)
    asked = kernel.tab.evaluate("model.questions.reverse().map(({run}) => run)")
    assert asked == [2, 1]
    kernel.answer("run")
    kernel.answer("run")
    assert kernel.state["run"] == 2 and len(kernel.state["z"]) == 3


def test_run_that_cannot_be_had_leaves_the_one_that_is_shown_and_says_why(kernel):
    before = kernel.state["z"]
    kernel.choose_run(1)
    kernel.answer("run", {"error": "the file is gone"})
    assert kernel.text("note") == "the file is gone"
    assert kernel.state["run"] == 0 and kernel.state["z"] == before
    assert kernel.tab.locator("[data-id=runs] input").evaluate_all(
        "all => all.map((each) => each.checked)") == [True, False, False]
    kernel.choose_run(1)  # it may be there again
    kernel.answer("run")
    assert kernel.state["run"] == 1


def test_kernel_that_keeps_silent_is_told_of(kernel):
    kernel.choose_run(1)
    kernel.find("note").filter(has_text="The kernel has not answered yet").wait_for(timeout=9000)
    kernel.answer("run")
    assert kernel.state["run"] == 1 and not kernel.find("note").is_visible()


def load_patient(kernel):
    kernel.press("load")
    kernel.answer("patients", PATIENTS)
    kernel.find("patient").select_option("0")


def test_patient_beats_from_ed_to_es(kernel):
    load_patient(kernel)
    assert kernel.questions().count("slice") == 1  # one answer tells of both
    kernel.answer("slice", {"hearts": [ED, ES]})
    assert kernel.state["z"] == ED["z"] and kernel.state["way"]
    kernel.find("way").fill("1")
    assert kernel.state["z"] == ES["z"]
    kernel.find("patient").select_option("")  # nobody
    assert "slice" not in kernel.questions() and kernel.state["z"] == ES["z"]


def test_patient_who_comes_too_late_does_not_push_another_heart_away(kernel):
    load_patient(kernel)
    kernel.press("mean")
    kernel.slider("z3").fill("1")
    kernel.answer("slice", {"hearts": [ED, ES]})
    assert kernel.state["start"] == "mean of real hearts" and kernel.state["z"][3] == 1


def test_what_the_kernel_sets_is_shown(kernel):
    kernel.set(z=[0.25] * 6)
    assert kernel.state["z"] == [0.25] * 6
    kernel.set(run=2, z=[1.0, 0, -1])
    kernel.answer("run")
    assert kernel.state["run"] == 2 and kernel.state["z"] == [1, 0, -1]
    kernel.set(z=[1.0])  # what does not fit is no place
    assert kernel.state["z"] == [1, 0, -1]


@pytest.mark.parametrize("kernel", [{"z": [0.5] * 6}], indirect=True)
def test_what_was_set_before_it_was_displayed_is_shown(kernel):
    assert kernel.state["z"] == [0.5] * 6


def test_strip_of_a_large_decoder_waits_for_the_kernel(kernel):
    kernel.tab.evaluate("explorer.data.runs[0].layers = null")
    kernel.slider("z3").fill("1")
    kernel.find("files").evaluate("(element) => { element.open = true; }")
    with kernel.tab.expect_download() as waiting:
        kernel.press("svg")
        for _ in range(40):
            kernel.tab.wait_for_timeout(30)
            if "scores" in kernel.questions():
                kernel.answer("scores")
    assert waiting.value.path().stat().st_size > 1000


def test_controls_of_two_explorers_are_apart(kernel):
    """Each widget loads the program anew."""
    names = kernel.tab.evaluate("""async () => {
      const root = document.documentElement.appendChild(document.createElement("div"));
      const url = URL.createObjectURL(new Blob([source], {type: "text/javascript"}));
      (await import(url)).default.render({model, el: root});
      return [document.body, root].map((each) => each.querySelector("[data-id=runs] input").name);
    }""")
    assert names[0] != names[1]
