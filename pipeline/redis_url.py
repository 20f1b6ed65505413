"""What ``publish.redis`` may be. redis-py would say what is wrong only when it connects, or let it override linepipe's own options."""

import re
from urllib.parse import parse_qsl

PASSWORD_ELSEWHERE = "a password does not belong here; use LINEPIPE_REDIS_PASSWORD or publish.password_file"
REDIS_OPTIONS = {"db": (r"\d{1,5}", "a whole number"), "client_name": (r"\S+", "a name without spaces")}
TLS_OPTIONS = {
    "ssl_ca_certs": (r".+", "a file"),
    "ssl_certfile": (r".+", "a file"),
    "ssl_keyfile": (r".+", "a file"),
    "ssl_cert_reqs": (r"required|optional|none", "required, optional or none"),
    "ssl_check_hostname": (r"true|false", "true or false"),
}


def redis_mistake(url: str) -> str:
    """What is wrong with ``publish.redis``, and what to write; empty: nothing."""
    if url == "embedded":
        return ""
    match = re.fullmatch(r"(rediss?|unix)://(?:(?P<auth>[^@/]*)@)?(?P<rest>[^?#]*)(?:\?(?P<query>.*))?", url)
    if match is None:
        return f"{url!r} is not a Redis URL; write embedded, redis://HOST:PORT/DB, rediss://... or unix:///PATH"
    if match["auth"] and ":" in match["auth"] and match["auth"].split(":", 1)[1]:
        return PASSWORD_ELSEWHERE
    if problem := _option_mistake(match[1], match["query"] or ""):
        return problem
    if match[1] == "unix":
        return "" if match["rest"].startswith("/") else f"{url!r}: write unix:///PATH/OF/SOCKET"
    name = r"(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?"
    host = re.fullmatch(rf"(\[[0-9a-fA-F:]+\]|{name})(?::(\d{{1,5}}))?(?:/\d*)?", match["rest"])
    if host is None or (host[2] and not 0 < int(host[2]) < 65536):
        return f"{url!r}: host, port or database is malformed; write redis://HOST:PORT/DB"
    return ""


def _option_mistake(scheme: str, query: str) -> str:
    """What is wrong with the options of a Redis URL; redis-py would say it only when it connects, or override linepipe's own."""
    known = REDIS_OPTIONS | (TLS_OPTIONS if scheme == "rediss" else {})
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "password":
            return PASSWORD_ELSEWHERE
        if name not in known:
            return f"no option {name!r}; {scheme}:// takes {', '.join(known)}"
        pattern, kind = known[name]
        if not re.fullmatch(pattern, value):
            return f"{name}={value} should be {kind}"
    return ""
