// Makes the few files that are published of the modules that tsc has left in dist/.
//
// To find, read and link a module costs more than what is in it: all that `fdpass` loads becomes one file, and what only other entry
// points need stays beside it. Names stay, and with them stack traces. It begins with what tsc has made: esbuild 0.28 has `using` in
// a loop throw again what an earlier turn threw. The declarations lose what is not public, nearly half of them.
import { readdirSync, rmSync, writeFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { build } from 'esbuild'
import { rollup } from 'rollup'
import { dts } from 'rollup-plugin-dts'
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

for (const name of readdirSync(dist)) if (name.startsWith('chunk-')) rmSync(join(dist, name))
const { metafile, outputFiles } = await build({
  absWorkingDir: root,
  entryPoints: {
    ...Object.fromEntries(entryPoints.map((name) => [name, join(dist, `${name}.js`)])),
    // A program, which the broker finds beside its own file.
    'helper-program': join(dist, 'lib', 'broker', 'helper-program.js')
  },
  outdir: dist,
  bundle: true,
  splitting: true,
  format: 'esm',
  platform: 'node',
  target: 'node20.19',
  external: ['#binding'],
  plugins: [startWithIndex],
  // package.json's sideEffects is about the files that this makes.
  ignoreAnnotations: true,
  metafile: true,
  write: false,
  logLevel: 'warning'
})

// To link one of Node's modules, Node reads all that it exports, and with it loads what it has left for later: most of node:fs.
const imported = /^import \{([^}]*)\} from "(node:[\w/]+)";$/gm
function take(_statement, names, module) {
  return `const {${names.replaceAll(' as ', ': ')}} = process.getBuiltinModule("${module}");`
}
// esbuild calls a class that names itself by another name, which would stand in messages.
function nameClasses(text) {
  const renamed = [...text.matchAll(/^var (\w+) = class _\1\b/gm)].map(([, name]) => name)
  return renamed.reduce((named, name) => named.replaceAll(new RegExp(`\\b_${name}\\b`, 'g'), name), text)
}
for (const { path, text } of outputFiles) {
  writeFileSync(path, nameClasses(text.replace(imported, take)))
}

// rollup does not know that a class may be exported as a type only.
const exportTypes = {
  name: 'export types',
  renderChunk(code, { isEntry, name }) {
    if (!isEntry) return null
    const values = new Set(metafile.outputs[`dist/${name}.js`].exports)
    const marked = (list) =>
      list.replace(/(?:\w+ as )?(\w+)/g, (item, exported) => (values.has(exported) ? item : `type ${item}`))
    return code.replace(/^export \{([^}]*)\}/gm, (_statement, list) => `export {${marked(list)}}`)
  }
}
const declarations = await rollup({
  input: Object.fromEntries(entryPoints.map((name) => [name, join(dist, `${name}.d.ts`)])),
  external: /^(node:|#binding$)/,
  plugins: [dts({ compilerOptions: { allowImportingTsExtensions: true } }), exportTypes],
  // `fdpass/dbus` and `fdpass/usocket` have a class whose base is not public.
  onLog: (level, log, show) => log.message.includes('private shared type exports') || show(level, log)
})
await declarations.write({ dir: dist, entryFileNames: '[name].d.ts', chunkFileNames: 'chunk-[hash].d.ts' })
rmSync(join(dist, 'lib'), { recursive: true })
