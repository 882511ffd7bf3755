// A client of the soak test's store that is killed: `store-client.js PATH SEED`. What it puts expires.
import { memfd } from 'fdpass'
import { connectStore } from 'fdpass/store'
import { generator } from '../helpers/random.ts'

const [path, seed] = process.argv.slice(2)
const { below } = generator(Number(seed))
const may = new Set<unknown>(['ENOSPC', 'EEXIST', 'ENOENT', 'ECONNRESET', 'EPIPE', 'ECONNREFUSED'])
const store = await connectStore(path!).catch((error: NodeJS.ErrnoException) => {
  if (may.has(error.code)) process.exit() // the store has been killed, too
  throw error
})
for (let i = 0; i < 2000; i++) {
  try {
    const memory = memfd({ data: 'x' })
    await store.put(
      `killed-${below(50)}`,
      Array.from({ length: 1 + below(10) }, () => memory),
      { expires: 100 + below(3000) }
    )
    memory.closeSync()
    for (const fd of await store.get(`killed-${below(50)}`)) fd.closeSync()
  } catch (error) {
    if (!may.has((error as NodeJS.ErrnoException).code)) throw error
  }
}
