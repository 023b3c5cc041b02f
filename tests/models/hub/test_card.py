"""The model card: what the table says, where the code loads from, what the Hub reads."""

from __future__ import annotations

from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from dabnn.models import DatasetInfo, ModelInfo
from dabnn.models.hub.card import model_card

CITY = DatasetInfo(("x", "y"), metrics={"miou": 61.25}, split="val", size=(128, 256), licence="research only")
INFO = ModelInfo({"city": CITY, "other": DatasetInfo(("x",))}, name="net")


def test_the_table_says_size_result_and_terms_of_each_dataset():
    card = model_card(INFO)
    assert "| dataset | classes | image size | miou % | measured on | terms of the data |\n" in card
    assert "| city | 2 | 256x128 | 61.2 | val | research only |\n| other | 1 |  |  |  |  |\n" in card
    assert 'dabnn.preprocess(model, "street.jpg", dataset="city")' in card


def test_columns_that_nothing_is_known_of_are_left_out_and_cells_stay_cells():
    odd = ModelInfo({"city": replace(CITY, size=None, metrics={}, licence="a | b\nc")})
    assert "| dataset | classes | measured on | terms of the data |\n" in model_card(odd)
    assert "| city | 2 | val | a \\| b c |" in model_card(odd)


def test_the_hub_reads_its_own_name_of_the_metric():
    (result,) = ModelCard(model_card(INFO)).data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("mean_iou", 61.25, "city")


def test_only_what_follows_a_paper_says_that_these_are_not_its_weights():
    assert "paper" not in model_card(INFO)
    assert "After: CDCL. These are not the paper's weights." in model_card(replace(INFO, paper="CDCL"))


def test_notes_are_a_section_of_their_own():
    assert "\n\n## Notes\n\nWith flip: 62.0.\n" in model_card(replace(INFO, notes="With flip: 62.0.\n\n"))
    assert "## Notes" not in model_card(INFO)


@pytest.mark.parametrize(
    ("name", "repo", "source"),
    [
        ("net", "", "FOLDER"),
        ("pspnet_lite0_os16.cdcl", "", "cdcl-pspnet-lite0"),
        ("pspnet_lite0_os16.cdcl", "me/mine", "me/mine"),
    ],
)
def test_the_code_loads_from_the_repository_the_alias_or_a_folder(name, repo, source):
    assert f'dabnn.from_pretrained("{source}")' in model_card(replace(INFO, name=name), repo)
