"""Fits a line to noisy points and tells ClearML all about it."""

from clearml import Task

from line import Line, points


def main():
    task = Task.init(project_name="quickstart", task_name="fit a line", output_uri=False)
    settings = {"points": 200, "noise": 0.3, "steps": 20, "rate": 0.5, "seed": 7}
    task.connect(settings)
    logger = task.get_logger()

    x, y = points(settings["points"], settings["noise"], settings["seed"])
    line = Line()
    for step in range(settings["steps"]):
        loss = line.improve(x, y, settings["rate"])
        logger.report_scalar("loss", "train", value=loss, iteration=step)
    print(f"y = {line.slope:.4f} x + {line.offset:.4f}, loss {loss:.6f}")


if __name__ == "__main__":
    main()
