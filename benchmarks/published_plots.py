def pictures(found):
    return {}
