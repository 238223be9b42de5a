"""Other people's packages, as installed: a folder of metadata, and a module beside it."""


def install(folder, name, points, *, version="1.0", code=None):
    """Write a distribution that offers entry points, `{group: {name: "module:object"}}`, and perhaps its module."""
    module = name.replace("-", "_")  # a hyphen in the folder's name would end the distribution's
    info = folder / f"{module}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in held.items()) for group, held in points.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    if code is not None:
        (folder / f"{module}.py").write_text(code)
