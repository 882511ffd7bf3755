// Runs the JavaScript tests on the binary in npm/PLATFORM, which was built elsewhere: `npm run test:binary -- PLATFORM`. It needs no Rust.
import { spawnSync } from 'node:child_process'
import { copyFileSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { root, run, sum } from '../run.mjs'

const [platform, ...args] = process.argv.slice(2)
if (platform === undefined) {
  console.error('Usage: npm run test:binary -- PLATFORM [SPEC…]')
  process.exit(2)
}
const { main } = JSON.parse(readFileSync(join(root, 'npm', platform, 'package.json'), 'utf8'))
for (const name of readdirSync(root)) if (name.endsWith('.node')) rmSync(join(root, name))
copyFileSync(join(root, 'npm', platform, main), join(root, main))
const env = { FDPASS_BINARY: main }
if (
  spawnSync(process.execPath, ['tools/build/setup.mjs'], {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, ...env }
  }).status !== 0
) {
  process.exit(1)
}
let passed = 0
let failed = 0
for (const backend of ['uv', 'thread']) {
  console.log(`# ava, back end ${backend}`)
  const { code, output } = await run(process.execPath, ['node_modules/ava/entrypoints/cli.mjs', '--tap', ...args], {
    env: { FDPASS_BACKEND: backend }
  })
  const [pass, fail] = [sum(output, /^# pass (\d+)$/gm), sum(output, /^# fail (\d+)$/gm)]
  passed += pass
  failed += code !== 0 && fail === 0 ? 1 : fail
}
console.log(`${passed} passed, ${failed} failed`)
process.exit(failed === 0 && passed > 0 ? 0 : 1)
