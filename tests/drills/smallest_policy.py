"""The README's smallest policy with two providers, for local providers."""
import re
from harness import ROOT, die

PROVIDER = r"^  ([\w.-]+): \{ (.*) \}$"


def smallest_policy():
    """The first policy with two providers in the README's section about the smallest policy."""
    section = (ROOT / "README.md").read_text().split("\n## The smallest policy\n")[1].split("\n## ")[0]
    for text in re.findall(r"```yaml\n(.*?)```", section, re.S):
        if len(re.findall(PROVIDER, text, re.M)) == 2:
            return text
    die("README.md, `The smallest policy`: expected a policy with two providers, one a line")


def policy_for(preset, urls, provider="", route=""):
    """The policy with these URLs, and with the preset for both providers if one is given. `provider` and `route` are further
    keys, each with a comma behind it."""
    left = list(urls)

    def replace(match):
        name, keys = match.groups()
        keys = re.sub(r"url: [^,}]+, |, url: [^,}]+$", "", keys)
        if preset:
            keys = re.sub(r"preset: [\w.-]+", f"preset: {preset}", keys)
        return f"  {name}: {{ url: \"{left.pop(0)}\", {provider}{keys} }}"

    text = re.sub(PROVIDER, replace, smallest_policy(), flags=re.M)
    return re.sub(r"providers: \[", f"{route}providers: [", text)


def keys(policy):
    """The variables that the policy names."""
    return {name: "key" for name in re.findall(r"\$\{env:(\w+)", policy)}
