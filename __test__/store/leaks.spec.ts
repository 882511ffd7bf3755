import { closeSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import test from 'ava'
import { connectStore, serveStore } from 'fdpass/store'
import { countFds, openFile, temporaryFolder } from '../helpers/descriptors.ts'
import { until } from '../helpers/inetds.ts'

const folder = temporaryFolder()

test.serial('a store that has done everything 50 times, and handed on 5 times, leaves nothing open', async (t) => {
  const path = join(folder, 'x')
  const run = async () => {
    let service = await serveStore({ path, maxFds: 20 })
    const store = await connectStore(path)
    for (let i = 0; i < 50; i++) {
      const file = openFile(`${i}`)
      await store.put('a', [file, file], { replace: true })
      await t.throwsAsync(store.put('a', file))
      await t.throwsAsync(
        store.put(
          'too many',
          Array.from({ length: 30 }, () => file)
        )
      )
      await store.put('b', file, { expires: 1, replace: true })
      await store.put('c', file, { replace: true })
      closeSync(file)
      for (const fd of await store.get('a')) fd.closeSync()
      for (const fd of await store.get('c', { remove: true })) fd.closeSync()
      await t.throwsAsync(store.get('c'))
      await store.get('a', { signal: AbortSignal.timeout(0) }).then(
        (fds) => fds.forEach((fd) => fd.closeSync()),
        () => {}
      )
      if (i % 10 !== 0) continue
      const next = await serveStore({ path, maxFds: 20 })
      await service.superseded
      service = next
    }
    store.close()
    service.close()
  }
  await run()
  await delay(50)
  const before = countFds()
  await run()
  await until(() => countFds() <= before) // connections are closed in a later turn, or by another thread
})
