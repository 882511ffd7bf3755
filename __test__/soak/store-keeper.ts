// A store of the soak test: `store-keeper.js PATH`. Prints 'ready' and 'superseded'.
import { writeSync } from 'node:fs'
import { serveStore } from 'fdpass/store'

const service = await serveStore({ path: process.argv[2]!, maxFds: 200 })
writeSync(1, 'ready\n')
await service.superseded
writeSync(1, 'superseded\n')
