import json
def render(found, chosen):
    return json.dumps(found)[:3000]+"\n"
