"""What a node refuses: pools that are there already or no more, invites that make no sense, leaving while inside."""

from pathlib import Path

import attrs
import pytest

from poolnet import LocalError, UnknownPool, open_node


async def test_a_pool_is_created_once_and_left_only_from_outside(tmp_path: Path) -> None:
    async with open_node(tmp_path / "home", listen=("127.0.0.1", 0)) as node:
        await node.create_pool("garden")
        with pytest.raises(LocalError, match="already"):
            await node.create_pool(" garden ")
        pool = node.find_pool("garden")
        for uses, expires_s in ((0, 60.0), (2**32, 60.0), (1, 0.0), (None, -1.0)):
            with pytest.raises(LocalError, match="at least one use"):
                await node.invite(pool, uses=uses, expires_s=expires_s)
        async with node.join(pool, name="ada"):
            with pytest.raises(LocalError, match="end that first"):
                await node.leave_pool(pool)
            with pytest.raises(LocalError, match="joined already"):
                async with node.join(pool):
                    raise AssertionError("it was joined twice")
            async with node.open_files(pool) as files:
                assert files.offers() == []
        async with node.open_files(pool) as files:
            assert files.offers() == []
        await node.leave_pool(pool)
        assert node.pools() == []
        with pytest.raises(UnknownPool):
            await node.leave_pool(pool)
        with pytest.raises(UnknownPool):
            async with node.join(attrs.evolve(pool, name="another")):
                raise AssertionError("a pool was joined that is not there")
        assert node.statistics().joined_pools == 0
