from __future__ import annotations

import pytest

from pyhyve.daemon.errors import LibvirtError, api_name, message_template
from pyhyve.rpc.errors import ErrorCode, ErrorDomain, ErrorMessage


def test_message_is_the_codes_words_and_the_detail() -> None:
    error = LibvirtError(ErrorCode.NO_DOMAIN, ErrorDomain.QEMU, "no domain with matching name 'x%s'")
    assert str(error) == "Domain not found: no domain with matching name 'x%s'"
    message = error.message()
    assert (message.code, message.domain, message.message) == (42, 10, str(error))
    assert (message.text1, message.text2) == ("Domain not found: %s", "no domain with matching name 'x%s'")
    assert ErrorMessage.decode(message.encode()) == message


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_has_words(code: ErrorCode) -> None:
    assert message_template(code).count("%s") == 1


@pytest.mark.parametrize(
    ("procedure", "function"),
    [
        ("DOMAIN_GET_INFO", "virDomainGetInfo"),
        ("DOMAIN_LOOKUP_BY_UUID", "virDomainLookupByUUID"),
        ("DOMAIN_GET_XML_DESC", "virDomainGetXMLDesc"),
        ("NODE_GET_CPU_MAP", "virNodeGetCPUMap"),
        ("CONNECT_LIST_ALL_NWFILTERS", "virConnectListAllNWFilters"),
        ("QEMU_DOMAIN_MONITOR_COMMAND", "virDomainQemuMonitorCommand"),
        ("LXC_DOMAIN_OPEN_NAMESPACE", "virDomainLxcOpenNamespace"),
    ],
)
def test_functions_are_named_as_in_the_library(procedure: str, function: str) -> None:
    assert api_name(procedure) == function
