#!/usr/bin/env python3
"""Makes the databases of this directory: one in the shape of each publisher, of networks that nobody has (RFC 5737, 3849).

Needs mmdb_writer 0.2.7 and netaddr from PyPI: python3 tests/geo/make.py
"""

from pathlib import Path

from mmdb_writer import MmdbF64, MMDBWriter, MmdbU32
from netaddr import IPSet

HERE = Path(__file__).parent
DE, FR, US, NL, NOWHERE = (
    "192.0.2.0/25", "198.51.100.0/24", "203.0.113.0/24", "2001:db8:1::/48", "192.0.2.128/25")


def make(name, database_type, entries):
    writer = MMDBWriter(6, database_type, languages=["en"], description="made for tests", ipv4_compatible=True)
    for network, record in entries.items():
        writer.insert_network(IPSet([network]), record)
    writer.to_db_file(str(HERE / name))


def city(code, latitude, longitude):
    location = {"latitude": MmdbF64(latitude), "longitude": MmdbF64(longitude), "accuracy_radius": 100}
    return {"country": {"iso_code": code, "names": {"en": "somewhere"}}, "location": location}


make("city.mmdb", "GeoLite2-City", {
    NOWHERE: {"registered_country": {"iso_code": "DE"}},
    DE: city("DE", 52.5, 13.4),
    FR: city("FR", 48.86, 2.35),
    US: {"country": {"iso_code": "EU"}},
    NL: city("NL", 52.37, 4.9),
})
make("asn.mmdb", "GeoLite2-ASN", {
    DE: {"autonomous_system_number": MmdbU32(64500), "autonomous_system_organization": "Example"},
    US: {"autonomous_system_number": MmdbU32(8075), "autonomous_system_organization": "Example"},
    NL: {"autonomous_system_number": MmdbU32(64501), "autonomous_system_organization": "Example"},
})
make("ipinfo_lite.mmdb", "ipinfo ipinfo_lite.mmdb", {
    DE: {"country": "Germany", "country_code": "DE", "continent": "Europe", "asn": "AS64500", "as_name": "Example"},
    NL: {"country": "Netherlands", "country_code": "NL", "continent": "Europe", "asn": "AS64501", "as_name": "Example"},
})
make("ipinfo_old.mmdb", "ipinfo generic_country_asn.mmdb", {
    DE: {"country": "DE", "country_name": "Germany", "asn": "AS64500"},
    FR: {"country": "FR", "country_name": "France", "asn": "AS64502", "lat": "48.86", "lng": "2.35"},
})
make("flat.mmdb", "DBIP-Country", {DE: {"country_code": "DE"}, NL: {"country_code": "NL"}})
make("other.mmdb", "Proxies", {DE: {"proxy": "yes"}})
