import re

import pytest

from bench import report
from hypervisor_schemas.settings import SETTINGS
from observability.prometheus.log_owned import SERVICE_JOBS, is_log_owned, log_owned
from tools.generate_docs import DOCS, PAGES

ROOT = DOCS.parent


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_says_what_the_code_says(name: str) -> None:
    assert (DOCS / name).read_text("utf-8") == PAGES[name](), "run `make docs`"


def test_the_figures_of_the_performance_page_are_those_that_were_measured() -> None:
    text = (DOCS / "performance.md").read_text("utf-8")
    made = text.partition(report.BEGIN)[2].partition(report.END)[0]
    assert made == "\n" + report.page(), "run `python -m bench.report`"


def test_every_setting_that_the_code_names_is_in_the_table() -> None:
    known = {setting.name for setting in SETTINGS}
    folders = ("schemas", "producers", "consumers", "hypervisor_telemetry")
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    named = {
        word.strip("`\"'.,:;()[]{}=*")
        for path in sources
        for word in path.read_text("utf-8").replace("\\n", " ").split()
        if "TELEMETRY_" in word
    }
    plain = {word for word in named if word.startswith("TELEMETRY_") and word.replace("_", "").isalnum()}
    assert plain - {"TELEMETRY_"} <= known


def test_instance_is_blanked_on_every_metric_that_belongs_to_the_log_and_on_no_other() -> None:
    [regex] = set(re.findall(r"^ +regex: (.+)$", (DOCS / "operations.md").read_text("utf-8"), re.MULTILINE))
    assert regex == log_owned()
    metrics = [metric for exported in SERVICE_JOBS.values() for metric in exported]

    found = {metric.name for metric in metrics if is_log_owned(metric.name)}
    assert found == {metric.name for metric in metrics if metric.of == "log"}


def test_every_link_between_pages_leads_somewhere() -> None:
    folders = (ROOT / "schemas", ROOT / "helm", DOCS)
    for page in [ROOT / "README.md", *(page for folder in folders for page in folder.rglob("*.md"))]:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_the_lock_names_no_index_address() -> None:
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    assert "://" not in lock
    assert "--index-url" not in lock
    assert "--find-links" not in lock
