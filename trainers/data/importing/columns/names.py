"""The usual names of the columns of an interaction log."""

from __future__ import annotations

import re
from collections.abc import Sequence

USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "user": (
        "userid", "user", "uid", "reviewerid", "customerid", "customer", "visitorid", "memberid", "accountid",
        "profileid", "clientid", "playerid", "username", "useridx", "userindex", "usernum", "userno", "custid",
        "customerno", "customernumber", "buyerid", "buyer", "shopperid", "visitor", "member", "readerid", "reader",
        "listenerid", "studentid", "learnerid", "patientid", "personid", "householdid", "useruuid", "userpseudoid",
        "steamid", "msno", "sessionid", "session", "u",
    ),
    "item": (
        "parentasin", "asin", "itemid", "item", "iid", "productid", "product", "movieid", "businessid", "gmapid",
        "articleid", "trackid", "songid", "artistid", "bookid", "isbn", "videoid", "newsid", "gameid", "appid",
        "recipeid", "venueid", "placeid", "poiid", "locationid", "contentid", "stockcode", "sku", "adid", "itemidx",
        "itemindex", "itemnum", "itemno", "productcode", "productno", "prodid", "goodsid", "showid", "animeid",
        "beerid",
        "courseid", "jobid", "hotelid", "restaurantid", "listingid", "offerid", "documentid", "docid", "postid",
        "podcastid", "episodeid", "clipid", "photoid", "pinid", "ean", "gtin", "upc", "movie", "book", "song", "track",
        "article", "video", "poi", "venue", "i",
    ),
    "timestamp": (
        "timestamp", "unixreviewtime", "unixtime", "time", "ts", "datetime", "eventtime", "date", "createdat",
        "createdtime", "reviewtime", "reviewdate", "purchasedate", "invoicedate", "orderdate", "tdat", "timestamps",
        "t",
    ),
}  # fmt: skip
"""Usual column names of each role, best first; compared without case, punctuation and RecBole's `:type`."""
RATINGS = (
    "rating",
    "ratings",
    "stars",
    "star",
    "overall",
    "score",
    "userrating",
    "reviewrating",
    "starrating",
    "label",
)
"""Usual names of the column that --min-rating reads, best first."""
ONE_LETTER = frozenset({"u", "i", "t"})
"""Usual names that are also likely ids; a header has at least two of them."""
_TIME_WORDS = re.compile(
    r"time|date|stamp|(^|[_\s.-])(ts|dt|at|on|when|day|ms|utc|epoch|unix)($|[_\s.:-])|[a-z](At|On|Dt|Ts)$",
    re.IGNORECASE,
)
_ATTRIBUTES = re.compile(
    r"birth|release|publi|sign_?up|regist|join|expir|deliver|ship|launch|update|modif|member_?since"
)


def bare(name: str) -> str:
    """A column name without RecBole's type."""
    return re.sub(r":(token|float|token_seq|float_seq)$", "", name.strip())


def plain(name: str) -> str:
    """A column name in the form used to compare: lower case, letters and digits only, without RecBole's type."""
    return re.sub(r"[^a-z0-9]", "", bare(name).lower())


def sounds_like_time(name: str) -> bool:
    return _TIME_WORDS.search(name) is not None


def sounds_like_attribute(name: str) -> bool:
    """Whether the name is that of a date of the user or the item rather than of the event."""
    return _ATTRIBUTES.search(name.lower()) is not None


def quoted(names: Sequence[str]) -> str:
    """The columns that there are, for a message."""
    shown = ", ".join(repr(name) for name in names[:20])
    return f"the columns {shown}" + (f" and {len(names) - 20} more" if len(names) > 20 else "")
