// Makes the few files that are published of the modules that tsc has left in dist/: to find, read and link each of them costs more
// than what is in it. All that `fdpass` loads becomes one file; what only other entry points need stays beside it. Names stay, and
// with them stack traces. It begins with what tsc has made: esbuild 0.28 has `using` in a loop throw again what an earlier turn threw.
import { readdirSync, rmSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { build } from 'esbuild'
import { entryPoints, root } from './run.mjs'

const dist = join(root, 'dist')
const index = join(dist, 'index.js')

// What can be reached from the same entry points becomes one file: everything that `fdpass` loads if each of them loads `fdpass`.
const startWithIndex = {
  name: 'start with index',
  setup({ onLoad, initialOptions }) {
    const others = new Set(Object.values(initialOptions.entryPoints).filter((path) => path !== index))
    onLoad({ filter: /\.js$/ }, async ({ path }) => ({
      contents: `${others.has(path) ? `import ${JSON.stringify(index)}\n` : ''}${await readFile(path, 'utf8')}`
    }))
  }
}

for (const name of readdirSync(dist)) if (/^chunk-.*\.js$/.test(name)) rmSync(join(dist, name))
await build({
  absWorkingDir: root,
  entryPoints: {
    ...Object.fromEntries(entryPoints.map((name) => [name, join(dist, `${name}.js`)])),
    // A program, which the broker finds beside its own file.
    'helper-program': join(dist, 'lib', 'broker', 'helper-program.js')
  },
  outdir: dist,
  allowOverwrite: true,
  bundle: true,
  splitting: true,
  format: 'esm',
  platform: 'node',
  target: 'node20.19',
  external: ['#binding'],
  plugins: [startWithIndex],
  // package.json's sideEffects is about the files that this makes.
  ignoreAnnotations: true,
  logLevel: 'warning'
})
for (const name of readdirSync(join(dist, 'lib'), { recursive: true }))
  if (name.endsWith('.js')) rmSync(join(dist, 'lib', name))
