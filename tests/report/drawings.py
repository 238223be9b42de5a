"""Reading drawings back."""

from xml.etree import ElementTree


def marks(drawing, tag, name):
    """Elements of a drawing with this tag and this class among theirs."""
    found = ElementTree.fromstring(drawing).iter(tag)
    return [each for each in found if name in each.get("class", "").split()]


def percent(attribute):
    """A place such as `12.5%` as a number."""
    assert attribute.endswith("%")
    return float(attribute[:-1])


def points(path):
    """The corners of a path of absolute M, L, H and V commands, in order."""
    found, x, y = [], 0.0, 0.0
    for part in path.rstrip("Z").replace("M", " M").replace("L", " L").replace("H", " H").replace("V", " V").split(" "):
        if not part:
            continue
        if part[0] == "H":
            x = float(part[1:])
        elif part[0] == "V":
            y = float(part[1:])
        elif part[0] in "ML":
            x = float(part[1:])
            continue
        else:
            y = float(part)
        found.append((x, y))
    return found
