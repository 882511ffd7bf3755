// A registry for tests, which has only the packages that are published to it. It is a process that runs verdaccio.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { install } from './install.mjs'

/** Starts the registry with its packages in a folder. Resolves to its address on the loopback interface and a function that stops it. */
export async function startRegistry(storage) {
  // One of its plug-ins requires a version by a tag that some mirrors of npm lack.
  const folder = install('verdaccio@6', { overrides: { 'node-fetch': '^2.6.7' } })
  const child = fork(fileURLToPath(import.meta.url), [folder, storage], {
    stdio: ['ignore', 'ignore', 'inherit', 'ipc']
  })
  const [port] = await Promise.race([
    once(child, 'message'),
    once(child, 'exit').then(() => Promise.reject(new Error('verdaccio has exited')))
  ])
  return {
    address: `http://127.0.0.1:${port}/`,
    stop: async () => {
      child.disconnect()
      if (child.exitCode === null) await once(child, 'exit')
    }
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [, , folder, storage] = process.argv
  const { runServer } = createRequire(join(folder, 'package.json'))('verdaccio')
  const server = await runServer({
    storage,
    configPath: join(storage, 'config.yaml'),
    self_path: storage,
    packages: { '**': { access: '$all', publish: '$all' } },
    auth: { htpasswd: { file: join(storage, 'htpasswd') } },
    middlewares: {},
    web: { enable: false },
    max_body_size: '10mb',
    log: { type: 'stdout', format: 'pretty', level: 'fatal' }
  })
  server.listen(0, '127.0.0.1', () => process.send(server.address().port))
  process.on('disconnect', () => process.exit())
}
