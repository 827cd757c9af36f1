from tfmoe.tasks.progress import EpochsOfStage, Stages


def test_the_time_left_is_that_of_the_work_done_so_far(capsys):
    """Shares of 10, 30 and 40 seconds; the first is done after 5, so all take half as long."""
    now = [100.0]
    stages = Stages({"a": 10, "b": 30, "c": 40}, clock=lambda: now[0])
    assert stages.left() is None
    stages.begin("a", "the first")
    now[0] += 5
    stages.begin("b", "the second")
    assert stages.left() == 35
    callback = EpochsOfStage(stages)
    callback.set_params({"epochs": 2})
    now[0] += 63  # 68 for 10 and 5/8 of 30, a quarter of which is before the epochs
    callback.on_epoch_end(0)
    assert stages.left() == 68 * (11.25 + 40) / 28.75
    callback.on_epoch_end(1)
    assert stages.left() == 68
    assert capsys.readouterr().out.splitlines() == [
        "",
        "== 1 of 3: the first ==",
        "",
        "== 2 of 3: the second; 0:05 so far, about 0:35 left ==",
        "all stages: 1:08 so far, about 2:01 left",
        "all stages: 1:08 so far, about 1:08 left",
    ]


def test_what_was_done_before_takes_no_time():
    now = [0.0]
    stages = Stages({"a": 0, "b": 10, "c": 10}, clock=lambda: now[0])
    stages.begin("b", "the first that runs")
    assert stages.left() is None
    now[0] = 4
    stages.begin("c", "the last")
    assert stages.left() == 4
