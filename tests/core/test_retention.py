"""How the bytes of a partition are divided between the store and its backups."""

from __future__ import annotations

import pytest

from gateway.core.retention import RetentionPolicy, part_bytes

MIB = 2**20


@pytest.mark.parametrize(
    ("policy", "shared", "bytes_"),
    [
        (RetentionPolicy(), False, 700),
        (RetentionPolicy(), True, 350),
        (RetentionPolicy(disk_share=1.0), True, 500),
        (RetentionPolicy(disk_mib=64), False, 64 * MIB),
        (RetentionPolicy(disk_mib=64), True, 32 * MIB),
        (RetentionPolicy(disk_mib=17, disk_share=0.1), True, 17 * MIB // 2),
    ],
)
def test_store_and_backups_get_half_each_of_a_partition_they_share_and_all_of_their_own(
    policy: RetentionPolicy, shared: bool, bytes_: int
) -> None:
    assert part_bytes(policy, 1000, shared=shared) == bytes_
