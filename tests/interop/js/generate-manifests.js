// What the codius CLI makes of pairs of codius.json and codiusvars.json, given as a JSON array. Each nonce is the same, so that it can
// be compared with what others make of them; images have digests, so no registry is asked.
const crypto = require('crypto')
crypto.randomBytes = (count) => Buffer.alloc(count, 0xab)
const fs = require('fs')
const path = require('path')
const { generateManifest, hashManifest } = require('codius-manifest')

async function generate ([codius, vars]) {
  const [codiusFile, varsFile] = ['codius.json', 'codiusvars.json'].map((name) => path.resolve(name))
  fs.writeFileSync(codiusFile, JSON.stringify(codius))
  fs.writeFileSync(varsFile, JSON.stringify(vars))
  try {
    const upload = await generateManifest(varsFile, codiusFile)
    return { upload, hash: hashManifest(upload.manifest) }
  } catch (error) {
    return { error: error.message }
  }
}

async function main () {
  const generated = []
  for (const pair of JSON.parse(process.argv[2])) {
    generated.push(await generate(pair))
  }
  console.log(JSON.stringify({ generated }))
}

main()
