"""A person takes the arm over in mid-episode, moves it, gives it back, and what is recorded says so."""

import os
import time

import numpy as np

from pbrl.data import episodes
from real.record.export import export
from real.takeover import LET_GO_S, TakeOver
from tests.real.test_deploy import Terminal, robot, run, wait_for  # noqa: F401  fixtures


def test_keys_push_while_they_are_held():
    person = TakeOver(0.5)
    assert not person.press("8", 0.0, 0.3) and not person.is_on, "only once it is taken"
    assert person.press("t", 0.0, 0.3) and person.is_on
    np.testing.assert_allclose(person.action(0.0), [0, 0, 0, 0.3], atol=1e-6)  # the gripper stays as it was told
    assert person.press("8", 1.0, 0.3) and person.press("6", 1.0, 0.3) and person.press("1", 1.0, 0.3)
    assert person.action(1.0).tolist() == [0.5, -0.5, 0.0, -1.0]
    assert person.action(1.0 + LET_GO_S + 0.01).tolist() == [0.0, 0.0, 0.0, -1.0]
    person.press("9", 3.0, 0.0), person.press("3", 3.1, 0.0)
    assert person.action(3.1).tolist() == [0.0, 0.0, -0.5, -1.0], "the last of two ways"
    assert not person.press("s", 3.0, 0.0) and not person.press(" ", 3.0, 0.0), "other keys are others'"
    assert person.press("t", 4.0, 0.0) and not person.is_on
    person.press("t", 4.0, 0.0)
    assert person.action(4.0).tolist() == [0.0] * 4, "nothing is left of before"


def test_a_person_takes_over_and_gives_back(run, robot, tmp_path):  # noqa: F811
    with Terminal(f"policy={run}", f"url={robot.url}", f"record={tmp_path}/episodes") as deployed:
        wait_for(lambda: "then any key" in deployed.read() or deployed.process.poll() is not None)
        os.write(deployed.ours, b"x")
        wait_for(lambda: robot.request()["count"].get("executed", 0) > 20)
        os.write(deployed.ours, b"t")
        wait_for(lambda: "a person has the arm" in deployed.read())
        for _ in range(10):
            os.write(deployed.ours, b"9999")  # faster than steps are: none is left over
            time.sleep(0.1)
        os.write(deployed.ours, b"t")
        wait_for(lambda: "the policy has the arm" in deployed.read())
        time.sleep(0.5)
        os.write(deployed.ours, b"s")
        wait_for(lambda: "episode 1: success" in deployed.read(), 20)
        os.write(deployed.ours, b"q")
        deployed.process.wait(timeout=30)
    (episode,) = episodes.read(tmp_path / "episodes")
    person = episode.person
    assert person is not None and 10 < person.sum() < len(person) - 10 and not person[0] and not person[-1]
    assert (np.diff(person.astype(int)) == 1).sum() == 1, "one stretch"
    pushed = person & (episode.action[:, 2] > 0)
    assert pushed.sum() > 10 and np.allclose(episode.action[pushed, :3], [0, 0, 0.3])
    begin, end = np.flatnonzero(pushed)[[0, -1]]
    assert episode.obs[end, 2] - episode.obs[begin, 2] > 0.02, "the tool went up"
    export(tmp_path / "episodes", tmp_path / "minari")
    (copy,) = episodes.read(tmp_path / "minari")
    assert copy.person is not None and copy.person.tolist() == person.tolist()
