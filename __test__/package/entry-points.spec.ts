import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { text } from 'node:stream/consumers'
import test from 'ava'

const { exports } = JSON.parse(readFileSync('package.json', 'utf8')) as { exports: Record<string, unknown> }
const entryPoints = Object.keys(exports)
  .filter((subpath) => subpath !== './package.json')
  .map((subpath) => subpath.replace('.', 'fdpass'))

/** Imports modules in their order in a new process, and casts an inherited socket there; returns what the process prints. */
async function castAfterImporting(modules: readonly string[]): Promise<string> {
  const descriptorRoom = new URL('../../../dist/lib/descriptor/index.js', import.meta.url).href
  const script = `
    for (const module of ${JSON.stringify(modules)}) await import(module)
    const { Descriptor } = await import(${JSON.stringify(descriptorRoom)})
    const socket = Descriptor.from(3).toUnixSocket()
    console.log(socket.type)
    socket.toStream().destroy()`
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'pipe', 'pipe'] // the last is a Unix domain stream socket (uv_spawn in libuv)
  })
  const [stdout, stderr] = await Promise.all([text(child.stdout!), text(child.stderr!)])
  return `${stdout}${stderr}`.trim()
}

test('the casts to sockets and streams come from the rooms above: without an entry point a Descriptor has none', async (t) => {
  t.regex(await castAfterImporting([]), /toUnixSocket is not a function/)
})

for (const [position, entryPoint] of entryPoints.entries()) {
  test(`${entryPoint} works when it is imported alone`, async (t) => {
    t.is(await castAfterImporting([entryPoint]), 'stream')
  })

  test(`${entryPoint} works when it is imported first, and when it is imported last`, async (t) => {
    const others = [...entryPoints.slice(position + 1), ...entryPoints.slice(0, position)]
    t.is(await castAfterImporting([entryPoint, ...others]), 'stream')
    t.is(await castAfterImporting([...others.toReversed(), entryPoint]), 'stream')
  })
}
