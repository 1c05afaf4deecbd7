"""A downstream task of s3prl on an exported model: `s3prl.run_downstream` with our upstreams.

    python -m pretrained.toolkits.s3prl_tasks -m train -u learn2diss_frames -k O/joint/model \\
        -d TASK -c CONFIG.yaml -p OUT

All options are s3prl's own; `-u` also takes learn2diss_last and learn2diss_utterance.
"""


def main():
    """Run what the command line says."""
    try:
        from s3prl import hub, run_downstream
    except (ImportError, AttributeError) as error:
        raise SystemExit(
            f"s3prl's tasks cannot be loaded here: {error}. s3prl 0.4.18, its newest version, asks "
            "for older ones of other packages: make an environment for it and say, in the folder "
            'of this project, pip install ".[s3prl]"'
        ) from error
    register(hub)
    run_downstream.main()


def register(hub):
    """Add our upstreams to those that s3prl knows by name.

    Arguments
    ---------
    hub : module
        `s3prl.hub`. After that `s3prl.nn.S3PRLUpstream(name, path_or_url=FOLDER)` loads them too.

    Example
    -------
    >>> import types
    >>> hub = types.ModuleType("hub")
    >>> register(hub)
    >>> callable(hub.learn2diss_frames)
    True
    """
    from pretrained.toolkits.upstreams import UPSTREAMS

    vars(hub).update(UPSTREAMS)


if __name__ == "__main__":
    main()
