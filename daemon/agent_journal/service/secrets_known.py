"""Secrets of common providers, by the form that their documents give them.

Each has a beginning of its own, so little else looks like one; what might (a long
word behind "bearer") has to hold more that only a secret does.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple


class Secret(NamedTuple):
    """A kind of secret."""

    kind: str  # as it stands in the marker
    pattern: re.Pattern[str]  # group 1, where there is one, is what is taken out


_BEGIN: Final = r"(?<![A-Za-z0-9])"  # nothing that it could be the middle of
_END: Final = r"(?![A-Za-z0-9_-])"


def _secret(kind: str, pattern: str) -> Secret:
    return Secret(kind, re.compile(_BEGIN + pattern, re.ASCII))


SECRETS: Final = (
    # docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html, "unique
    # identifiers": AKIA a user's access key, ASIA a temporary one, ABIA and ACCA of services.
    _secret(
        "aws-access-key",
        rf"(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{{16}}{_END}",
    ),
    # platform.openai.com/docs/api-reference/authentication: project, service account and
    # admin keys; user keys of before hold "OpenAI" in base64 in the middle.
    _secret(
        "openai-key",
        rf"sk-(?:(?:proj|svcacct|admin)-[A-Za-z0-9_-]{{20,256}}"
        rf"|[A-Za-z0-9]{{20}}T3BlbkFJ[A-Za-z0-9]{{20}}{_END})",
    ),
    # docs.anthropic.com/en/api/overview, and the admin API's page.
    _secret("anthropic-key", r"sk-ant-[a-z]{3,8}[0-9]{2}-[A-Za-z0-9_-]{20,256}"),
    # docs.github.com/en/authentication/keeping-your-account-and-data-secure/
    # about-authentication-to-github, "GitHub's token formats".
    _secret(
        "github-token",
        r"(?:gh[opusr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255})",
    ),
    # cloud.google.com/docs/authentication/api-keys; developers.google.com/identity/protocols/
    # oauth2 (access tokens, client secrets).
    _secret(
        "google-key",
        rf"(?:AIza[A-Za-z0-9_-]{{35}}{_END}|ya29\.[A-Za-z0-9_-]{{20,2048}}"
        rf"|GOCSPX-[A-Za-z0-9_-]{{28}}{_END})",
    ),
    # api.slack.com/concepts/token-types, and api.slack.com/messaging/webhooks.
    _secret(
        "slack-token",
        r"(?:xox[abceoprs]-[A-Za-z0-9-]{10,250}|xapp-[0-9]-[A-Za-z0-9-]{10,250}"
        r"|hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9/_-]{20,200})",
    ),
    # docs.stripe.com/keys (secret and restricted keys), docs.stripe.com/webhooks.
    _secret(
        "stripe-key",
        r"(?:[sr]k_(?:live|test)_[A-Za-z0-9]{10,250}|whsec_[A-Za-z0-9+/=]{24,250})",
    ),
    # RFC 7468, 10 and 11, OpenSSH's and OpenPGP's (RFC 9580, 6.2); to its end, or as far as
    # there is any.
    Secret(
        "private-key",
        re.compile(
            r"-----BEGIN (?:[A-Z0-9]{1,16} ){0,4}PRIVATE KEY(?: BLOCK)?-----"
            r"(?:.*?-----END (?:[A-Z0-9]{1,16} ){0,4}PRIVATE KEY(?: BLOCK)?-----|.*)",
            re.DOTALL,
        ),
    ),
    # RFC 7519: three parts of base64url, the first two of which are JSON objects ('{"').
    _secret(
        "jwt",
        r"(?<![_-])eyJ[A-Za-z0-9_-]{8,8192}\.eyJ[A-Za-z0-9_-]{8,65536}\.[A-Za-z0-9_-]{8,4096}",
    ),
    # RFC 6750, 2.1.  A word of prose that is as long holds no digit.
    _secret(
        "bearer-token",
        r"[Bb](?:earer|EARER) {1,4}"
        r"(?=[A-Za-z._~+/-]{0,4096}[0-9])([A-Za-z0-9._~+/-]{20,8192}={0,2})",
    ),
)

# What is in the JSON of every string that holds one of these.  Each begins with one
# character, which is looked for at the speed of memory; an event without any, as most
# are, costs a tenth of what the patterns themselves would.  (JSON may spell any character
# as \\u and four digits, so that counts, too.)
SIGNS: Final = tuple(
    re.compile(sign)
    for sign in (
        rb"A(?:KIA|SIA|BIA|CCA|Iza)",
        rb"J(?<=eyJ)",
        rb"FJ(?<=T3BlbkFJ)",
        rb"X-(?<=GOCSPX-)",
        rb"KEY(?<=PRIVATE KEY)",
        rb"-(?:(?<=sk-)|(?<=xapp-)|(?<=xox.-))",
        rb"_(?:(?<=gh[opusr]_)|(?<=github_)pat_|(?<=[sr]k_)(?:live|test)_|(?<=whsec_))",
        rb"\.(?:(?<=ya29\.)|(?<=hooks\.)slack)",
        rb"earer ",
        rb"EARER ",
        rb"\\u",
    )
)
