"""Tables and figures (extra `report`).

Each figure is a function of runs that returns its axes, also in a notebook:

    from dai_plugin.report.lines import draw_strength
    from dai_plugin.report.runs import read_runs

    axes = draw_strength(read_runs(["one", "two"]), "rotation")
    axes.figure

No backend is chosen and no setting of matplotlib is changed.
"""
