// Bundles what tsc has compiled in dist/ into the few files that are published, in a folder with the same entry points.
//
// Node needs longer to find, read and link a module than to run it: everything that `fdpass` loads becomes one file, and what only
// other entry points need stays beside it. Names are kept for stack traces. The input is tsc's output, because esbuild 0.28
// compiles `using` in a loop so that it rethrows the error of an earlier iteration.
import { chmodSync, copyFileSync, mkdirSync, writeFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { dirname, join, relative } from 'node:path'
import { build } from 'esbuild'
import { rollup } from 'rollup'
import { dts } from 'rollup-plugin-dts'
import { entryPoints, root } from '../run.mjs'

const compiled = join(root, 'dist')
const index = join(compiled, 'index.js')
const paths = Object.values(entryPoints)

const common = {
  absWorkingDir: root,
  bundle: true,
  splitting: true,
  format: 'esm',
  platform: 'node',
  target: 'node20.19'
}

// Modules that the same entry points reach become one file: everything that `fdpass` loads, if each entry point loads `fdpass`.
const startWithIndex = {
  name: 'start with index',
  setup({ onLoad, initialOptions }) {
    const others = new Set(Object.values(initialOptions.entryPoints).filter((path) => path !== index))
    onLoad({ filter: /\.js$/ }, async ({ path }) => ({
      contents: `${others.has(path) ? `import ${JSON.stringify(index)}\n` : ''}${await readFile(path, 'utf8')}`
    }))
  }
}

// When Node links an ECMAScript import of a builtin module, it reads every export, and loads what the module loads lazily.
const imported = /^import \{([^}]*)\} from "(node:[\w/]+)";$/gm
function useGetBuiltinModule(_statement, names, module) {
  return `const {${names.replaceAll(' as ', ': ')}} = process.getBuiltinModule("${module}");`
}
// esbuild renames a class that refers to itself, and makes the others anonymous: error messages would show other names, once the variables are renamed.
function restoreClassNames(text) {
  const renamed = [...text.matchAll(/^var (\w+) = class _\1\b/gm)].map(([, name]) => name)
  const restored = renamed.reduce((named, name) => named.replaceAll(new RegExp(`\\b_${name}\\b`, 'g'), name), text)
  return restored.replaceAll(/^var (\w+) = class(?= extends\b| \{)/gm, 'var $1 = class $1')
}

/** Bundles the library; returns esbuild's metafile. */
async function bundleLibrary(folder) {
  const { metafile, outputFiles } = await build({
    ...common,
    entryPoints: {
      ...Object.fromEntries(paths.map((path) => [path, join(compiled, `${path}.js`)])),
      // A program: the broker starts the file beside its own.
      'lib/broker/helper-program': join(compiled, 'lib', 'broker', 'helper-program.js')
    },
    outdir: folder,
    external: ['#binding'],
    plugins: [startWithIndex],
    ignoreAnnotations: true, // package.json's sideEffects describes the files that this makes
    metafile: true,
    write: false,
    logLevel: 'warning'
  })
  for (const { path, text } of outputFiles) {
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(path, restoreClassNames(text.replace(imported, useGetBuiltinModule)))
  }
  return metafile
}

// commander requires node:child_process for commands with programs of their own, of which there is none: it takes a tenth of the time of `--help`.
const withoutChildProcess = {
  name: 'without child_process',
  setup({ onLoad, onResolve }) {
    onResolve({ filter: /^node:child_process$/ }, ({ path, importer }) =>
      importer.includes('commander') ? { path, namespace: 'empty' } : undefined
    )
    onLoad({ filter: /.*/, namespace: 'empty' }, () => ({ contents: '' }))
  }
}

/** Bundles the command line with commander, its only dependency. It imports `fdpass` as any program does. */
async function bundleCommandLine(folder) {
  const cli = join(folder, 'lib', 'cli')
  const { outputFiles } = await build({
    ...common,
    entryPoints: ['main', 'openfile'].map((name) => join(compiled, 'lib', 'cli', `${name}.js`)),
    outdir: cli,
    external: ['fdpass', 'fdpass/*'],
    chunkNames: '[name]-[hash]',
    plugins: [withoutChildProcess],
    write: false,
    logLevel: 'warning'
  })
  mkdirSync(cli, { recursive: true })
  for (const { path, text } of outputFiles) {
    // commander is CommonJS, requires modules of Node's, and has a variable `process`.
    const code = text.replaceAll(/\b__require\("(node:\w+)"\)/g, 'globalThis.process.getBuiltinModule("$1")')
    writeFileSync(path, code.replace(imported, useGetBuiltinModule))
  }
  chmodSync(join(cli, 'main.js'), 0o755)
  copyFileSync(join(root, 'node_modules', 'commander', 'LICENSE'), join(cli, 'commander.LICENSE'))
}

/** Rolls the declarations up. They lose what is not public, nearly half of them. */
async function bundleDeclarations(folder, { outputs }) {
  // rollup does not know that a class may be exported as a type only.
  const exportTypes = {
    name: 'export types',
    renderChunk(code, { isEntry, name }) {
      if (!isEntry) return null
      const values = new Set(outputs[relative(root, join(folder, `${name}.js`))].exports)
      const marked = (list) =>
        list.replace(/(?:\w+ as )?(\w+)/g, (item, exported) => (values.has(exported) ? item : `type ${item}`))
      return code.replace(/^export \{([^}]*)\}/gm, (_statement, list) => `export {${marked(list)}}`)
    }
  }
  const declarations = await rollup({
    input: Object.fromEntries(paths.map((path) => [path, join(compiled, `${path}.d.ts`)])),
    external: /^(node:|#binding$)/,
    plugins: [dts({ compilerOptions: { allowImportingTsExtensions: true } }), exportTypes],
    // `fdpass/dbus` and `fdpass/usocket` have a class whose base is not public.
    onLog: (level, log, show) => log.message.includes('private shared type exports') || show(level, log)
  })
  await declarations.write({ dir: folder, entryFileNames: '[name].d.ts', chunkFileNames: 'chunk-[hash].d.ts' })
}

/** Writes the published files of dist/ into a folder. */
export async function bundle(folder) {
  await bundleDeclarations(folder, await bundleLibrary(folder))
  await bundleCommandLine(folder)
}
